"""`nearfield status`: regions and edges, from what the edge knows of them; once, or again each second."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from deploy.client import ApiError, Client, Unreachable
from deploy.terminal import show
from deploy.trust.credentials import Credentials

if TYPE_CHECKING:
    from rich.console import RenderableType

EVERY_S = 1.0
"""As often as regions speak."""
REGION_COLUMNS = (
    "region",
    "rtt",
    "heard",
    "breaker",
    "store",
    "host",
    "from home",
    "behind home",
    "ETA off",
    "models",
)

EDGE_COLUMNS = ("edge", "nearest", "heard", "up", "processes", "answers/s", "failed/s", "under way")


def once(credentials: Credentials, *, as_json: bool) -> None:
    """Each region: how far it is, how fresh its row, what it measured, what is resident. Then each edge."""
    status = _read(credentials)
    if as_json:
        show.emit_json(status)
    else:
        show.console().print(drawn(status))


def watch(credentials: Credentials, *, as_json: bool) -> None:
    """The same each second until Ctrl-C: in place on a terminal, else a table after the other, or a JSON line each.

    An edge that does not answer for a while is said and asked again.
    """
    console = show.console()
    try:
        if as_json:
            for status in _again(credentials):
                sys.stdout.write(json.dumps(status, sort_keys=True) + "\n")
                sys.stdout.flush()
        elif console.is_terminal:
            _live(credentials)
        else:
            for status in _again(credentials):
                console.print(_drawn_or_said(status))
    except KeyboardInterrupt:
        return


def _live(credentials: Credentials) -> None:
    from rich.live import Live  # noqa: PLC0415 - on a terminal only

    with Live(console=show.console(), auto_refresh=False, screen=True) as live:
        for status in _again(credentials):
            live.update(_drawn_or_said(status), refresh=True)


def _again(credentials: Credentials) -> Iterator[Mapping[str, Any]]:
    while True:
        try:
            yield _read(credentials)
        except (Unreachable, ApiError) as error:
            yield {"error": {"code": getattr(error, "code", "unreachable"), "message": str(error)}}
        time.sleep(EVERY_S)


def _read(credentials: Credentials) -> Mapping[str, Any]:
    status: Mapping[str, Any] = Client(credentials, admin=True).get("/nearfield/status").body
    return status


def _drawn_or_said(status: Mapping[str, Any]) -> "RenderableType":
    error = status.get("error")
    return f"[red]{error['message']}[/]" if error else drawn(status)


def drawn(status: Mapping[str, Any]) -> "RenderableType":
    """The tables of regions and edges, and what an operator should know besides."""
    from rich.console import Group  # noqa: PLC0415 - only what draws loads rich

    simulated = status.get("simulated_wan")
    above = [f"long-distance delays are SIMULATED: profile {simulated}"] if simulated else []
    rows = [_region_row(region, seen) for region, seen in status["regions"].items()]
    below = [f"[yellow]{line}[/]" for line in _policy_lines(status.get("rows") or {})]
    edges = [_edge_row(edge, seen) for edge, seen in (status.get("edges") or {}).items()]
    regions = show.table(REGION_COLUMNS, rows)
    if not edges:  # an edge of before tells of none
        return Group(*above, regions, *below)
    return Group(*above, regions, "", show.table(EDGE_COLUMNS, edges), *below)


def _policy_lines(rows: Mapping[str, Any]) -> Iterator[str]:
    """What an operator should know of the map itself; nothing while all is as usual."""
    policy = rows.get("policy") or {}
    if rows.get("frozen"):
        yield "the map is FROZEN: this edge takes no rows until POST /nearfield/rows/thaw"
    if trial := policy.get("trial"):
        yield f"new rules are on trial at {', '.join(trial['edges'])} for {trial['seconds']:g} s"
    if policy.get("withdrawn"):
        yield f"new rules were withdrawn: {policy['withdrawn']}"
    if drained := (policy.get("rules") or {}).get("drained"):
        yield f"drained by the rules: {', '.join(drained)}"
    if refused := rows.get("refused"):
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(refused.items()))
        yield f"rows refused since the edge began: {kinds}"


def _region_row(region: str, seen: Mapping[str, Any]) -> tuple[str, ...]:
    body = seen.get("body") or {}
    heard = seen.get("heard_s")
    found = body.get("models") or {}
    return (
        region,
        show.millis(seen.get("rtt_ms")),
        "never" if heard is None else f"{heard:.1f} s ago",
        str(seen.get("breaker")),
        _rate(body.get("store_bytes_per_s")),
        _rate(body.get("host_bytes_per_s")),
        _rate(body.get("origin_bytes_per_s")),
        _behind(body),
        f"{body['eta_error']:.0%}" if body.get("eta_error") else "-",
        ", ".join(f"{name} {row.get('tier') or row['state']}" for name, row in sorted(found.items())) or "-",
    )


def _edge_row(edge: str, seen: Mapping[str, Any]) -> tuple[str, ...]:
    heard, nearest = seen["heard_s"], seen["nearest"]
    way = seen["regions"].get(nearest) or {}
    said = heard is not None
    return (
        edge,
        f"{nearest} {show.millis(way.get('rtt_ms'))}" if nearest else "-",
        "asked" if seen["self"] else f"{heard:.1f} s ago" if said else "never",
        show.age(seen["up_s"]),
        f"{seen['processes']}" if said else "-",
        _pace(seen["answers_per_s"]),
        _pace(seen["failed_per_s"]),
        f"{sum(each['busy'] for each in seen['regions'].values())}" if said else "-",
    )


def _pace(per_s: float | None) -> str:
    return "-" if per_s is None else f"{per_s:.1f}"


def _behind(body: Mapping[str, Any]) -> str:
    """What replication has still to bring, and since when that is due; a home that is silent counts too."""
    if not body.get("behind_s"):
        return "-"
    return f"{show.size(body.get('behind_bytes') or 0)}, {body['behind_s']:.0f} s"


def _rate(bytes_per_s: float | None) -> str:
    return "not yet" if not bytes_per_s else f"{show.size(bytes_per_s)}/s"
