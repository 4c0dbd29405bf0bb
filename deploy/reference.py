"""Reference pages made from the code: `python -m deploy.reference` writes what `pages` names, and docs/schemas/."""

import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from deploy import dashboard, figures
from deploy.cli import app
from deploy.config import page as config_page
from deploy.openapi import page as http_page
from deploy.openapi.document import document
from deploy.schemas.published import SCHEMAS, schema_of
from deploy.terminal.exits import Exit
from deploy.terminal.failing import BY_HTTP_STATUS, BY_STORE_CODE, CAUSES, STATUS_BY_CODE

HEAD = """# Command line

This page is made from the code (`python -m deploy.reference`); a test holds them equal.

Every command that answers something has `--json`; what it prints then has a schema: `nearfield schema NAME`,
and [docs/schemas/](schemas/ls.json). A command that fails with `--json` prints the schema `error`. Off a
terminal there are no bars, no colours and no questions; `NO_COLOR` takes the colours away on one. Names of
models and regions are completed at Tab: `eval "$(nearfield completion bash)"`, `eval "$(nearfield completion
zsh)"`, `nearfield completion fish | source`. The folder of a platform is `--state DIR`, else
`NEARFIELD_STATE`, else `.nearfield`.
"""


METRICS_HEAD = """# Figures

This page is made from the code (`python -m deploy.reference`); a test holds them equal.
[telemetry.md](telemetry.md) says where roles show them, who may read, and what they are good for. Histograms have
`_bucket`, `_sum` and `_count`; those of seconds have buckets from 1 ms to 2,560 s. No label ever holds a prompt, a key
or an address of a client. Names of models are those of models that are there, and a figure has at most 512 series: what
is beyond is counted under `other`, and of gauges left out.
"""


def metrics_page() -> str:
    """The whole of docs/metrics.md."""
    return "\n".join([METRICS_HEAD, *figures.tables()])


def page() -> str:
    """The whole of docs/cli.md."""
    root: Any = typer.main.get_command(app)
    parts = [HEAD, _exits()]
    for name, command in root.commands.items():
        below = getattr(command, "commands", None)
        found = {f"{name} {each}": one for each, one in below.items()} if below else {name: command}
        parts += [_command(words, one) for words, one in found.items()]
    parts.append(_errors())
    return "\n".join(parts)


def _exits() -> str:
    rows = "\n".join(f"| {int(each)} | {each.words} |" for each in Exit)
    return f"## Exit status\n\n| status | means |\n| --- | --- |\n{rows}\n"


def _command(words: str, command: Any) -> str:
    """One command: what it does, its arguments and options."""
    usage = " ".join(filter(None, ("nearfield", words, "[OPTIONS]", *_arguments(command))))
    rows = "\n".join(_row(each) for each in command.params)
    table = f"\n| | |\n| --- | --- |\n{rows}\n" if rows else ""
    return f"## nearfield {words}\n\n{_whole(command)}\n\n```\n{usage}\n```\n{table}"


def _whole(command: Any) -> str:
    return " ".join((inspect.cleandoc(command.help or "")).split())


def _arguments(command: Any) -> Iterator[str]:
    for each in command.params:
        if each.param_type_name == "argument":
            name = each.metavar or each.name.upper()
            yield name if each.required else f"[{name}]"


def _row(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        name = f"`{parameter.metavar or parameter.name.upper()}`"
    else:
        name = ", ".join(f"`{each}`" for each in (*parameter.opts, *parameter.secondary_opts))
    return f"| {name} | {parameter.help or ''}{_default(parameter)}{_variable(parameter)} |"


def _default(parameter: Any) -> str:
    value = parameter.default
    is_said = value not in {None, "", False, True} and not callable(value)
    return f" Default: `{value}`." if is_said else ""


def _variable(parameter: Any) -> str:
    name = getattr(parameter, "envvar", None)
    return f" Environment: `{name}`." if name else ""


def _errors() -> str:
    """What errors are called, their exit status and the command that comes next."""
    rows = [
        f"| `{cause.code}` | {int(cause.status)} | `{cause.next_step}` |"
        for cause in dict.fromkeys(CAUSES.values())  # two errors may be one to their reader
        if cause.code
    ]
    rows += [
        f"| the store's `{said}`: `{cause.code}` | {int(cause.status)} | `{cause.next_step}` |"
        for said, cause in BY_STORE_CODE.items()
    ]
    rows += [f"| `{code}` | {int(status)} | as it says |" for code, status in STATUS_BY_CODE.items()]
    rows += [
        f"| an answer with status {http} | {int(status)} | `{next_step}` |"
        for http, (status, next_step) in BY_HTTP_STATUS.items()
    ]
    said = "Each says its cause and the next command; one that knows better than this table says so itself."
    head = f"## Errors\n\n{said}\n"
    return f"{head}\n| code | exit status | next |\n| --- | --- | --- |\n" + "\n".join(rows) + "\n"


def schemas() -> Iterator[tuple[str, str]]:
    """(file name, text) of each published schema."""
    for name in SCHEMAS:
        yield f"{name}.json", json.dumps(schema_of(name), indent=1, sort_keys=True) + "\n"


def pages() -> Iterator[tuple[str, str]]:
    """(path in docs/, text) of each page, and of the OpenAPI document."""
    yield "cli.md", page()
    yield "metrics.md", metrics_page()
    yield "grafana/nearfield.json", dashboard.page()
    yield "reference/config.md", config_page.page()
    yield "reference/http-api.md", http_page.page()
    yield "openapi.json", json.dumps(document(), indent=1) + "\n"


def write(docs: Path) -> None:
    """Write all of it; a schema that is none any more goes."""
    for name, text in pages():
        (docs / name).write_text(text)
    folder = docs / "schemas"
    folder.mkdir(exist_ok=True)
    wanted = dict(schemas())
    for path in folder.glob("*.json"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    write(Path(sys.argv[1] if sys.argv[1:] else "docs"))
