"""The words of the commands that print settings: for other tools, for shells, for programs that read our JSON."""

import enum
import sys
from pathlib import Path
from typing import Annotated

import typer

from deploy.terminal.failing import errors
from deploy.words.options import DEFAULT_STATE, JsonOption, StateOption
from deploy.words.quick import QuickCommand, QuickGroup


class Shell(enum.StrEnum):
    """The shells that there is a completion for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def env(
    state: StateOption = DEFAULT_STATE,
    access_key: Annotated[
        str | None,
        typer.Option(help="Id of another S3 key of the TOML; its secret is derived from the root key here."),
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Settings for aws, boto3, curl and the openai client: eval "$(nearfield env)"."""
    from deploy.terminal import pasted, show  # noqa: PLC0415
    from deploy.trust import credentials as saved  # noqa: PLC0415 - each command loads only what it needs

    with errors(as_json=as_json):
        environment = saved.load(state).environment()
        if access_key is not None:
            from deploy.config.read import load  # noqa: PLC0415 - as above
            from deploy.roles.runner import secret_of  # noqa: PLC0415 - as above

            secret = secret_of(load(state / "nearfield.toml"), access_key)
            environment |= {"AWS_ACCESS_KEY_ID": access_key, "AWS_SECRET_ACCESS_KEY": secret}
        if as_json:
            show.emit_json(environment)
        else:
            sys.stdout.writelines(pasted.exports(environment))


def s3(
    tool: Annotated[str | None, typer.Argument(help="aws, boto3, rclone or s5cmd (all)")] = None,
    state: StateOption = DEFAULT_STATE,
    *,
    as_json: JsonOption = False,
) -> None:
    """The bucket's settings, ready to paste, for aws, boto3, rclone and s5cmd."""
    from deploy.s3tools import TOOLS  # noqa: PLC0415
    from deploy.terminal import show  # noqa: PLC0415
    from deploy.trust import credentials as saved  # noqa: PLC0415 - each command loads only what it needs

    if tool is not None and tool not in TOOLS:
        raise typer.BadParameter(f"one of {', '.join(TOOLS)}")
    with errors(as_json=as_json):
        credentials = saved.load(state)
        chosen = {name: say(credentials) for name, say in TOOLS.items() if tool in {None, name}}
        if as_json:
            show.emit_json(chosen)
        else:
            texts = (text if tool else f"# {name}\n{text}" for name, text in chosen.items())
            sys.stdout.write("\n\n".join(texts) + "\n")


def completion(
    shell: Annotated[Shell, typer.Argument(help="The shell to complete in.")],
) -> None:
    """Print what completes commands, models and regions at Tab: eval "$(nearfield completion bash)"."""
    from deploy.words import completing  # noqa: PLC0415 - each command loads only what it needs

    sys.stdout.write(completing.script(shell.value) + "\n")


def schema(
    name: Annotated[
        str | None,
        typer.Argument(help="A command with --json, `error`, or `toml`; without one, their names."),
    ] = None,
) -> None:
    """The JSON Schema of what a command prints with --json, or of nearfield.toml."""
    from deploy.schemas.published import SCHEMAS, schema_of  # noqa: PLC0415
    from deploy.terminal import show  # noqa: PLC0415

    if name is not None and name not in SCHEMAS:
        raise typer.BadParameter(f"one of {', '.join(SCHEMAS)}")
    if name is None:
        sys.stdout.writelines(f"{each}\n" for each in SCHEMAS)
    else:
        show.emit_json(schema_of(name))


config_app = typer.Typer(
    cls=QuickGroup,
    no_args_is_help=True,
    help="The fleet's one TOML: what holds, and where it comes from.",
    rich_markup_mode=None,
)


@config_app.command("show", cls=QuickCommand)
def config_show(
    config: Annotated[
        Path | None, typer.Option(help="The fleet's TOML; that of the state folder if not given.")
    ] = None,
    state: StateOption = DEFAULT_STATE,
    *,
    origin: Annotated[
        bool, typer.Option("--origin", help="Beside each value, the line it stands in, or `default`.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Print every setting that holds, defaults included."""
    from deploy.commands import config as command  # noqa: PLC0415 - each command loads only what it needs

    with errors(as_json=as_json):
        command.show_all(config or state / "nearfield.toml", origin=origin, as_json=as_json)


@config_app.command("check", cls=QuickCommand)
def config_check(
    config: Annotated[
        Path | None, typer.Option(help="The fleet's TOML; that of the state folder if not given.")
    ] = None,
    state: StateOption = DEFAULT_STATE,
    *,
    as_json: JsonOption = False,
) -> None:
    """Read the file as every role would, and say what is wrong with it."""
    from deploy.commands import config as command  # noqa: PLC0415 - each command loads only what it needs

    with errors(as_json=as_json):
        command.check(config or state / "nearfield.toml", as_json=as_json)


@config_app.command("scrape")
def config_scrape(
    config: Annotated[
        Path | None, typer.Option(help="The fleet's TOML; that of the state folder if not given.")
    ] = None,
    state: StateOption = DEFAULT_STATE,
    *,
    key: Annotated[
        bool, typer.Option("--key", help="Only the key that readers from other machines show.")
    ] = False,
) -> None:
    """What Prometheus is told to read the figures of every role: the scrape_configs of its YAML."""
    from deploy.commands import scrape as command  # noqa: PLC0415 - each command loads only what it needs

    with errors(as_json=False):
        sys.stdout.write(command.said(config or state / "nearfield.toml", only_key=key))
