"""`nearfield keys`: the words of its commands."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.terminal.durations import seconds
from deploy.terminal.failing import errors
from deploy.words.options import DEFAULT_STATE, JsonOption, StateOption
from deploy.words.quick import QuickCommand, QuickGroup

if TYPE_CHECKING:
    from pathlib import Path

    from deploy.client import Client

app = typer.Typer(
    cls=QuickGroup,
    no_args_is_help=True,
    help="API keys: make, list, rotate and revoke them.",
    rich_markup_mode=None,
)
KEYS_S = 30.0  # the edge gives the home region half of it
KeyArgument = Annotated[str, typer.Argument(help="The key's id, as `nearfield keys ls` lists it.")]


@app.command("ls", cls=QuickCommand)
def ls_command(state: StateOption = DEFAULT_STATE, *, as_json: JsonOption = False) -> None:
    """List every key with what it grants; the keys themselves are kept nowhere."""
    from deploy.commands import keys as command  # noqa: PLC0415 - each command loads only what it needs

    with errors(as_json=as_json):
        command.listed(_client(state), as_json=as_json)


@app.command("make", cls=QuickCommand)
def make_command(
    tenant: Annotated[str, typer.Argument(help="Whose key it is: what is counted and kept apart.")],
    state: StateOption = DEFAULT_STATE,
    *,
    name: Annotated[str, typer.Option(help="What it is for, for people.")] = "",
    scopes: Annotated[str, typer.Option(help="infer, admin or both, by comma.")] = "infer",
    models: Annotated[str, typer.Option(help="ORG/NAME, ORG/* or *, by comma.")] = "*",
    ttl: Annotated[
        str, typer.Option(help="Ends after so long: 90s, 15m, 12h, 30d. Never, unless told.")
    ] = "",
    requests_per_min: Annotated[int, typer.Option(min=0, help="At each edge; 0: no bound.")] = 0,
    tokens_per_min: Annotated[int, typer.Option(min=0, help="At each edge; 0: no bound.")] = 0,
    streams: Annotated[int, typer.Option(min=0, help="Requests at a time at each edge; 0: no bound.")] = 0,
    weight: Annotated[int, typer.Option(min=1, max=100, help="Share of a busy engine.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Make a key. It is shown now and never again."""
    from deploy.commands import keys as command  # noqa: PLC0415 - each command loads only what it needs

    quota = {
        "requests_per_min": requests_per_min,
        "tokens_per_min": tokens_per_min,
        "streams": streams,
        "weight": weight,
    }
    order = {
        "tenant": tenant,
        "name": name,
        "scopes": scopes.split(","),
        "models": models.split(","),
        "expires_s": int(time.time()) + seconds(ttl) if ttl else 0,
        "quota": quota,
    }
    with errors(as_json=as_json):
        command.make(_client(state), order, as_json=as_json)


@app.command("rotate", cls=QuickCommand)
def rotate_command(
    key: KeyArgument,
    state: StateOption = DEFAULT_STATE,
    *,
    overlap: Annotated[
        str, typer.Option(help="How long the old one goes on: 0s, 15m, 12h, 30d at most 90d.")
    ] = "24h",
    as_json: JsonOption = False,
) -> None:
    """Make a key that grants the same; the old one ends after the overlap."""
    from deploy.commands import keys as command  # noqa: PLC0415 - each command loads only what it needs

    overlap_s = seconds(overlap)
    with errors(as_json=as_json):
        command.rotate(_client(state), key, overlap_s, as_json=as_json)


@app.command("revoke", cls=QuickCommand)
def revoke_command(
    key: KeyArgument, state: StateOption = DEFAULT_STATE, *, as_json: JsonOption = False
) -> None:
    """End a key now: every edge refuses it within a second."""
    from deploy.commands import keys as command  # noqa: PLC0415 - each command loads only what it needs

    with errors(as_json=as_json):
        command.revoke(_client(state), key, as_json=as_json)


def _client(state: "Path") -> "Client":
    from deploy.client import Client  # noqa: PLC0415
    from deploy.trust import credentials  # noqa: PLC0415 - each command loads only what it needs

    known = credentials.load(state)
    return Client(known, admin=True, patience_s=KEYS_S, waits_for=known.home_region)
