"""The child that renders chat templates: a model's own program, run where it can hurt nobody.

`python -m inference.api.text.template_child --cpu-ms 200` reads frames (4-byte big-endian length, JSON) from standard
input and answers each on standard output. The rendering rules are those of transformers' `apply_chat_template`
(`utils/chat_template_utils.py`), which is what model authors write for: an immutable sandbox with trimmed blocks,
loop controls, `tojson` that does not escape HTML, `raise_exception`, `strftime_now`, and `{% generation %}`.

What the sandbox cannot stop, the kernel stops (`inference.api.killable.loop`). Imports: Jinja and the standard library.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox
import jinja2.utils

from inference.api.killable.loop import MAX_MEMORY_BYTES, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from jinja2.parser import Parser

MAX_TEXT_BYTES = 1024 * 1024
"""Rendered text; a million bytes is more than any context we serve."""
MAX_TEMPLATES = 32
"""Compiled templates kept; one is a few hundred KiB at worst."""
MAX_WHY_CHARS = 400
"""Of an error message: templates may raise text of any length."""

SandboxedEnvironment = jinja2.sandbox.ImmutableSandboxedEnvironment


class GenerationBlock(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}` marks the assistant's text for training; here it only passes through."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own way to declare an extension's tags

    def parse(self, parser: Parser) -> list[jinja2.nodes.Node]:
        """The statements inside, as they stand."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class TemplateFailure(Exception):
    """The template said no, is not a template, or made too much; the text is for the caller."""


class Dict:
    """`dict(...)` for templates, without the type's attributes."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        """As `dict`."""
        return dict(*args, **kwargs)


class Namespace(jinja2.utils.Namespace):
    """`namespace(...)` that takes no name with a leading underscore: those reach Python's own insides."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise TemplateFailure(f"a namespace cannot hold {name!r}")
        super().__setitem__(name, value)


def make_environment() -> SandboxedEnvironment:
    """The environment that chat templates are written for."""
    environment = SandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    environment.globals["dict"] = Dict()
    environment.globals["namespace"] = Namespace
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: object) -> NoReturn:
    raise TemplateFailure(str(message))


def _strftime_now(layout: str) -> str:
    return datetime.now().astimezone().strftime(layout)


class Renderer:
    """Compiled templates by digest, and their rendering. `arm` sets the processor time of what comes next."""

    def __init__(self, arm: Callable[[], None]) -> None:
        self._environment = make_environment()
        self._compiled: OrderedDict[str, jinja2.Template] = OrderedDict()
        self._arm = arm

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """{"text"} or {"error"} or, for a digest that is not compiled and came without source, {"unknown"}.

        `message`: {"digest", "source" or null, "variables": {...}}; without variables it is only compiled.
        """
        digest, source = message["digest"], message.get("source")
        if digest not in self._compiled and source is None:
            return {"unknown": True}
        try:
            template = self._template(digest, source)
            variables = message["variables"]
            return {"text": "" if variables is None else self._render(template, variables)}
        except MemoryError:
            return {"error": f"it needs more than {MAX_MEMORY_BYTES >> 20} MiB of memory"}
        except RecursionError:
            return {"error": "it calls itself too deeply"}
        except jinja2.TemplateSyntaxError as cause:
            return {"error": f"line {cause.lineno}: {cause.message}"[:MAX_WHY_CHARS]}
        except Exception as cause:  # noqa: BLE001 - a template is a program: it can raise whatever it likes
            return {"error": f"{_name(cause)}{cause}"[:MAX_WHY_CHARS]}

    def _template(self, digest: str, source: str | None) -> jinja2.Template:
        if digest not in self._compiled:
            self._arm()
            self._compiled[digest] = self._environment.from_string(str(source))
            if len(self._compiled) > MAX_TEMPLATES:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(digest)
        return self._compiled[digest]

    def _render(self, template: jinja2.Template, variables: dict[str, Any]) -> str:
        self._arm()
        parts: list[str] = []
        num_bytes = 0
        for part in template.generate(variables):
            num_bytes += len(part.encode())
            if num_bytes > MAX_TEXT_BYTES:
                raise TemplateFailure(f"it makes more than {MAX_TEXT_BYTES:,} bytes of text")
            parts.append(part)
        return "".join(parts)


def _name(cause: Exception) -> str:
    """Jinja's own messages read well alone; a TypeError's needs its name."""
    return "" if isinstance(cause, (TemplateFailure, jinja2.TemplateError)) else f"{type(cause).__name__}: "


if __name__ == "__main__":
    run(
        "Renders chat templates for one node; speaks frames, not text.",
        Renderer,
        {"digest": "", "source": "{{ messages }}", "variables": {"messages": []}},
    )
