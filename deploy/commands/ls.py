"""`nearfield ls`: the models, from what the edge knows by the regions' signed rows."""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from deploy.client import Client
from deploy.models import standing
from deploy.terminal import columns, show
from deploy.terminal.columns import Cell
from deploy.trust.credentials import Credentials


def models(credentials: Credentials, *, as_json: bool) -> None:
    """Each model with its state in each region; a refused push shows its reason and the next step."""
    status = Client(credentials, admin=True).get("/nearfield/status").body
    names = standing.models(status)
    if as_json:
        show.emit_json(
            {name: {r: s["body"]["models"].get(name) for r, s in _heard(status)} for name in names}
        )
        return
    if not names:
        sys.stdout.write("No model yet. Push one: nearfield push ./my-model acme/my-model\n")
        return
    head, rows = ("model", "kind", "size", *status["regions"]), [_row(status, name) for name in names]
    sys.stdout.write(columns.table(head, rows, colours=columns.has_colours(), width=columns.room()))
    sys.stdout.flush()
    for name in names:
        _explain(status, name)


def _heard(status: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return ((region, seen) for region, seen in status["regions"].items() if seen.get("body"))


def _row(status: Mapping[str, Any], name: str) -> tuple[Cell, ...]:
    rows = [seen["body"]["models"].get(name) for _, seen in _heard(status)]
    known: Mapping[str, Any] = next((row for row in rows if row and row.get("bytes")), {})
    where = standing.standings(status, name)
    cells = [_cell(where[region]) for region in status["regions"]]
    facts = (name, str(known.get("kind") or "-"), show.size(known.get("bytes") or 0))
    return (*map(Cell, facts), *cells)


def _cell(where: standing.Standing) -> Cell:
    if where.state == "absent":
        return Cell("-")
    if where.live:
        return Cell(f"live ({where.tier})", "green")
    return Cell(where.state, "red" if where.error else "")


def _explain(status: Mapping[str, Any], name: str) -> None:
    said: set[str] = set()
    for region, seen in _heard(status):
        row = seen["body"]["models"].get(name) or {}
        error = row.get("error")
        if error and error["message"] not in said:
            said.add(error["message"])
            show.console().print(f"  {name} in {region}: [red]{error['code']}[/]: {error['message']}")
            show.console().print(f"    next: {error['next']}; or take it away: nearfield rm {name}")
        if row.get("waits_for"):
            show.console().print(
                f"  {name} in {region}: the newest revision waits for the canary {row['waits_for']}"
            )
        for entry in row.get("left_out") or ():
            line = f"  {name}: left out {entry['path']} ({entry['reason']})"
            if line not in said:
                said.add(line)
                show.console().print(line, style="yellow")
