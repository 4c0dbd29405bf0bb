"""`nearfield report`: measures, prints the table, writes the page and the document."""

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from deploy import show
from deploy.client import Client
from deploy.credentials import Credentials
from deploy.exits import Exit
from deploy.faults import NotLive
from deploy.report.document import Report, as_json_document
from deploy.report.measure import ReportTarget, run_report
from deploy.report.write import render, write
from deploy.standing import standings


@dataclass(frozen=True, slots=True)
class Order:
    """What to measure and where to write it."""

    model: str
    regions: tuple[str, ...] | None
    num_cold: int
    num_warm: int
    seed: int
    html: Path | None
    json: Path | None


def run(credentials: Credentials, order: Order, *, as_json: bool) -> int:
    """Measure and show; returns the exit status: 1 if a request failed.

    Raises:
        NotLive: the model is not live where it should be measured, or a file cannot be written where it was asked for.
    """
    console = show.console(quiet=as_json)
    report = asyncio.run(measured(console, credentials, settled(credentials, order)))
    if as_json:
        show.emit_json(as_json_document(report))
    return Exit.FAILED if report.num_failed else Exit.OK


def settled(credentials: Credentials, order: Order) -> Order:
    """The order with its regions named (where the model is live, if none were), checked before anything is measured."""
    for path in (order.html, order.json):
        if path is not None and not path.absolute().parent.is_dir():
            raise NotLive("not_found", f"{path.parent} is not a folder", "Name a file in one that is there.")
    status = Client(credentials, admin=True).get("/nearfield/status").body
    live = [region for region, standing in standings(status, order.model).items() if standing.live]
    missing = [region for region in order.regions or () if region not in live]
    if missing or not live:
        where = f"in {missing[0]}" if missing else "anywhere"
        raise NotLive("not_found", f"{order.model} is not live {where}", "See where it is: nearfield ls")
    return replace(order, regions=order.regions or tuple(live))


async def measured(console: Console, credentials: Credentials, order: Order) -> Report:
    """Measure, print the table, write the files."""
    with console.status("measuring") as status:
        report = await run_report(
            target(credentials, order), lambda text: status.update(f"measuring: {text}")
        )
    console.print(render(report))
    write(report, order.html, order.json)
    for path in (order.html, order.json):
        if path is not None:
            console.print(f"wrote {path}")
    return report


def target(credentials: Credentials, order: Order) -> ReportTarget:
    """The report's target on this platform."""
    regions = order.regions or tuple(credentials.regions)
    return ReportTarget(
        admin_url=credentials.admin_url,
        pins={region: credentials.regions[region] for region in regions},
        ca=Path(credentials.ca),
        api_key=credentials.api_key,
        admin_key=credentials.admin_key,
        model=order.model,
        regions=regions,
        num_cold=order.num_cold,
        num_warm=order.num_warm,
        seed=order.seed,
    )
