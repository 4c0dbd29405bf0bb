"""`nearfield ls` and `nearfield status`: what the edge knows from the regions' signed rows."""

from collections.abc import Iterator, Mapping
from typing import Any

from deploy import show, watch
from deploy.client import Client
from deploy.credentials import Credentials

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


def models(credentials: Credentials, *, as_json: bool) -> None:
    """Each model with its state in each region; a refused push shows its reason and the next step."""
    status = Client(credentials, admin=True).get("/nearfield/status").body
    names = watch.models(status)
    if as_json:
        show.emit_json(
            {name: {r: s["body"]["models"].get(name) for r, s in _heard(status)} for name in names}
        )
        return
    console = show.console()
    if not names:
        console.print("No model yet. Push one: nearfield push ./my-model acme/my-model")
        return
    console.print(show.table(("model", "kind", "size", *status["regions"]), [_row(status, n) for n in names]))
    for name in names:
        _explain(status, name)


def _heard(status: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return ((region, seen) for region, seen in status["regions"].items() if seen.get("body"))


def _row(status: Mapping[str, Any], name: str) -> tuple[str, ...]:
    rows = [seen["body"]["models"].get(name) for _, seen in _heard(status)]
    known: Mapping[str, Any] = next((row for row in rows if row and row.get("bytes")), {})
    where = watch.standings(status, name)
    cells = [_cell(where[region]) for region in status["regions"]]
    return (name, str(known.get("kind") or "-"), show.size(known.get("bytes") or 0), *cells)


def _cell(standing: watch.Standing) -> str:
    if standing.state == "absent":
        return "-"
    if standing.live:
        return f"[green]live[/] ({standing.tier})"
    return f"[red]{standing.state}[/]" if standing.error else standing.state


def _explain(status: Mapping[str, Any], name: str) -> None:
    console, said = show.console(), set()
    for region, seen in _heard(status):
        row = seen["body"]["models"].get(name) or {}
        error = row.get("error")
        if error and error["message"] not in said:
            said.add(error["message"])
            console.print(f"  {name} in {region}: [red]{error['code']}[/]: {error['message']}")
            console.print(f"    next: {error['next']}; or take it away: nearfield rm {name}")
        if row.get("waits_for"):
            console.print(
                f"  {name} in {region}: the newest revision waits for the canary {row['waits_for']}"
            )
        for entry in row.get("left_out") or ():
            line = f"  {name}: left out {entry['path']} ({entry['reason']})"
            if line not in said:
                said.add(line)
                console.print(line, style="yellow")


def regions(credentials: Credentials, *, as_json: bool) -> None:
    """Each region: how far it is, how fresh its row, what it measured, what is resident."""
    status = Client(credentials, admin=True).get("/nearfield/status").body
    if as_json:
        show.emit_json(status)
        return
    console = show.console()
    if status.get("simulated_wan"):
        console.print(f"long-distance delays are SIMULATED: profile {status['simulated_wan']}")
    rows = [_region_row(region, seen) for region, seen in status["regions"].items()]
    console.print(show.table(REGION_COLUMNS, rows))
    for line in _policy_lines(status.get("rows") or {}):
        console.print(line, style="yellow")


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


def _behind(body: Mapping[str, Any]) -> str:
    """What replication has still to bring, and since when that is due; a home that is silent counts too."""
    if not body.get("behind_s"):
        return "-"
    return f"{show.size(body.get('behind_bytes') or 0)}, {body['behind_s']:.0f} s"


def _rate(bytes_per_s: float | None) -> str:
    return "not yet" if not bytes_per_s else f"{show.size(bytes_per_s)}/s"
