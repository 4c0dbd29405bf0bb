"""`nearfield keys`: API keys made, listed, rotated and revoked at the edge's listener for operators."""

import datetime as dt
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from deploy.client import ApiError, Client, Reply
from deploy.faults import NotLive
from deploy.terminal import show

KEYS = "/nearfield/keys"
NOT_FOUND = 404
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


def listed(client: Client, *, as_json: bool) -> None:
    """Every key with what it grants."""
    found = client.get(KEYS).body["keys"]
    if as_json:
        show.emit_json(found)
    else:
        show.console().print(show.table(COLUMNS, [_row(each) for each in found]))


def make(client: Client, order: Mapping[str, Any], *, as_json: bool) -> None:
    """Make a key and show it, once."""
    _tell(client.post(KEYS, order), as_json=as_json)


def rotate(client: Client, key: str, overlap_s: int, *, as_json: bool) -> None:
    """Make one that grants the same; the old one ends later. Raises NotLive: there is no such key."""
    with _known(key):
        made = client.post(f"{KEYS}/{key}/rotate", {"overlap_s": overlap_s})
    _tell(made, as_json=as_json)


def revoke(client: Client, key: str, *, as_json: bool) -> None:
    """End a key now. Raises NotLive: there is no such key."""
    with _known(key):
        gone = client.delete(f"{KEYS}/{key}").body
    if as_json:
        show.emit_json(gone)
    else:
        show.console().print(f"revoked {gone['id']} of {gone['tenant']} {gone['name']}".rstrip())


@contextmanager
def _known(key: str) -> Iterator[None]:
    """What could never be an id is no path of the listener's, which says only that."""
    try:
        yield
    except ApiError as error:
        if error.status != NOT_FOUND:
            raise
        raise NotLive("not_found", f"no key has the id {key!r}", "See the ids: nearfield keys ls") from error


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
