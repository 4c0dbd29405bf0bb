"""`nearfield keys`: API keys made, listed, rotated and revoked at the edge's listener for operators."""

import datetime as dt
import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from deploy import credentials as saved
from deploy import show
from deploy.client import Client, Reply
from deploy.failing import errors
from deploy.options import DEFAULT_STATE, JsonOption, StateOption

KEYS = "/nearfield/keys"
UNITS_S: Mapping[str, int] = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
COLUMNS = (
    "id",
    "tenant",
    "name",
    "scopes",
    "models",
    "requests/min",
    "tokens/min",
    "streams",
    "made",
    "ends",
)

app = typer.Typer(no_args_is_help=True, help="API keys: make, list, rotate and revoke them.")
KeyArgument = Annotated[str, typer.Argument(help="The key's id, as `nearfield keys ls` lists it.")]


@app.command("ls")
def ls_command(state: StateOption = DEFAULT_STATE, *, as_json: JsonOption = False) -> None:
    """List every key with what it grants; the keys themselves are kept nowhere."""
    with errors(as_json=as_json):
        found = Client(saved.load(state), admin=True).get(KEYS).body["keys"]
        if as_json:
            show.emit_json(found)
        else:
            show.console().print(show.table(COLUMNS, [_row(each) for each in found]))


@app.command("make")
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
        "expires_s": int(time.time()) + _seconds(ttl) if ttl else 0,
        "quota": quota,
    }
    with errors(as_json=as_json):
        _tell(Client(saved.load(state), admin=True).post(KEYS, order), as_json=as_json)


@app.command("rotate")
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
    order = {"overlap_s": _seconds(overlap)}
    with errors(as_json=as_json):
        _tell(Client(saved.load(state), admin=True).post(f"{KEYS}/{key}/rotate", order), as_json=as_json)


@app.command("revoke")
def revoke_command(
    key: KeyArgument, state: StateOption = DEFAULT_STATE, *, as_json: JsonOption = False
) -> None:
    """End a key now: every edge refuses it within a second."""
    with errors(as_json=as_json):
        gone = Client(saved.load(state), admin=True).delete(f"{KEYS}/{key}").body
        if as_json:
            show.emit_json(gone)
        else:
            show.console().print(f"revoked {gone['id']} of {gone['tenant']} {gone['name']}".rstrip())


def _tell(reply: Reply, *, as_json: bool) -> None:
    made = reply.body
    if as_json:
        show.emit_json(made)
        return
    show.console().print(f"{made['key']}")
    show.problems().print(f"id {made['id']}; this is the only time that the key is shown")


def _row(key: Mapping[str, Any]) -> tuple[str, ...]:
    quota = key["quota"]
    bounds = (quota[name] for name in ("requests_per_min", "tokens_per_min", "streams"))
    return (
        key["id"],
        key["tenant"],
        key["name"] or "-",
        ",".join(key["scopes"]),
        ",".join(key["models"]),
        *(f"{each:,}" if each else "-" for each in bounds),
        _day(key["created_s"]),
        _day(key["expires_s"]),
    )


def _day(seconds: int) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%d %H:%M") if seconds else "-"


def _seconds(text: str) -> int:
    """A duration as people write it. Raises typer.BadParameter."""
    number, unit = text[:-1], text[-1:]
    if unit not in UNITS_S or not number.isascii() or not number.isdigit() or len(number) > 9:
        raise typer.BadParameter(f"{text!r} is no duration; write 90s, 15m, 12h or 30d")
    return int(number) * UNITS_S[unit]
