"""The words of the commands about one model: push it, see it, ask it, measure it, take it away."""

from pathlib import Path
from typing import Annotated

import typer

from deploy.terminal import person
from deploy.terminal.exits import Exit
from deploy.terminal.failing import errors
from deploy.words.names import model_names, region_names
from deploy.words.options import (
    DEFAULT_STATE,
    JsonOption,
    ModelArgument,
    RegionsOption,
    StateOption,
    TimeoutOption,
    WaitOption,
    YesOption,
    split,
)


def push(
    folder: Annotated[Path, typer.Argument(help="A model in Hugging Face layout.")],
    model: ModelArgument,
    preview: Annotated[
        str | None, typer.Option("--preview", help="As ORG/NAME@PREVIEW, beside what ORG/NAME serves.")
    ] = None,
    regions: RegionsOption = None,
    timeout_s: TimeoutOption = 600.0,
    prices: Annotated[
        Path | None, typer.Option(help="A price file (TOML); else prices.toml of the state folder.")
    ] = None,
    state: StateOption = DEFAULT_STATE,
    *,
    yes: YesOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and move nothing.")] = False,
    as_json: JsonOption = False,
    wait: WaitOption = True,
) -> None:
    """Show the plan, then upload a model folder and see it live in its regions."""
    from deploy.commands import push as command  # noqa: PLC0415
    from deploy.trust import credentials as saved  # noqa: PLC0415 - each command loads only what it needs

    with errors(as_json=as_json):
        name = f"{model}@{preview}" if preview else model
        order = command.Order(folder, name, split(regions), timeout_s if wait else 0.0, prices, state)
        command.run(saved.load(state), order, yes=yes, dry_run=dry_run, as_json=as_json)


def ls(state: StateOption = DEFAULT_STATE, *, as_json: JsonOption = False) -> None:
    """The models, and where each one stands in each region."""
    from deploy.commands import ls as command  # noqa: PLC0415
    from deploy.trust import credentials as saved  # noqa: PLC0415 - each command loads only what it needs

    with errors(as_json=as_json):
        command.models(saved.load(state), as_json=as_json)


def revisions(
    model: ModelArgument, state: StateOption = DEFAULT_STATE, *, as_json: JsonOption = False
) -> None:
    """What a model or preview serves and served before, and what each revision's boot and probes came to."""
    from deploy.commands import revisions as command  # noqa: PLC0415
    from deploy.trust import credentials as saved  # noqa: PLC0415 - each command loads only what it needs

    with errors(as_json=as_json):
        command.show_all(saved.load(state), model, as_json=as_json)


def promote(
    preview: Annotated[
        str, typer.Argument(help="The preview.", metavar="ORG/NAME@PREVIEW", autocompletion=model_names)
    ],
    timeout_s: TimeoutOption = 600.0,
    state: StateOption = DEFAULT_STATE,
    *,
    canary: Annotated[
        bool, typer.Option("--canary", help="As any new revision: first in the canary region.")
    ] = False,
    wait: WaitOption = True,
    as_json: JsonOption = False,
) -> None:
    """Serve under the model's own name what its preview serves; no byte moves, and no request is lost."""
    from deploy.commands import turn as command  # noqa: PLC0415
    from deploy.trust import credentials as saved  # noqa: PLC0415 - each command loads only what it needs

    with errors(as_json=as_json):
        turn = command.Turn(timeout_s if wait else 0.0, as_json)
        command.promote(saved.load(state), preview, turn, canary=canary)


def rollback(
    model: ModelArgument,
    to: Annotated[
        str | None, typer.Option("--to", help="That revision, by its first digits; else the one before.")
    ] = None,
    timeout_s: TimeoutOption = 600.0,
    state: StateOption = DEFAULT_STATE,
    *,
    wait: WaitOption = True,
    as_json: JsonOption = False,
) -> None:
    """Serve an earlier revision again; a second one undoes the first. No byte goes up, and no request is lost."""
    from deploy.commands import turn as command  # noqa: PLC0415
    from deploy.trust import credentials as saved  # noqa: PLC0415 - each command loads only what it needs

    with errors(as_json=as_json):
        command.rollback(saved.load(state), model, to, command.Turn(timeout_s if wait else 0.0, as_json))


def chat(
    model: ModelArgument,
    prompt: Annotated[str | None, typer.Argument(help="The question; without one, a conversation.")] = None,
    region: Annotated[
        str | None,
        typer.Option("--region", help="Ask one region by its own address.", autocompletion=region_names),
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="At most so many tokens.")] = 256,
    state: StateOption = DEFAULT_STATE,
    *,
    as_json: JsonOption = False,
) -> None:
    """Ask a model through the edge; the last line says where the time went."""
    from deploy.commands import chat as command  # noqa: PLC0415
    from deploy.trust import credentials as saved  # noqa: PLC0415 - each command loads only what it needs

    with errors(as_json=as_json):
        command.run(saved.load(state), model, prompt, region, max_tokens, as_json=as_json)


def rm(
    model: ModelArgument,
    state: StateOption = DEFAULT_STATE,
    *,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Take a model out of every region and delete its objects."""
    from deploy.commands import stop as command  # noqa: PLC0415
    from deploy.trust import credentials as saved  # noqa: PLC0415 - each command loads only what it needs

    with errors(as_json=as_json):
        if not yes and not person.agrees(f"Delete {model} and everything under models/{model}/ ?"):
            typer.echo("nothing was deleted")
            raise typer.Exit(Exit.FAILED)
        command.remove(saved.load(state), model, as_json=as_json)
