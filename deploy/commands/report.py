"""`nearfield report`: measures, prints the table, writes the page and the document."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from deploy import show
from deploy.credentials import Credentials
from deploy.report.document import Report, as_json_document
from deploy.report.measure import ReportTarget, run_report
from deploy.report.write import render, write


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


def run(credentials: Credentials, order: Order, *, as_json: bool) -> None:
    """Measure and show.

    Raises:
        ApiError: the model is not served, or a key is not accepted.
    """
    console = Console(quiet=True) if as_json else show.console()
    report = asyncio.run(measured(console, credentials, order))
    if as_json:
        show.emit_json(as_json_document(report))


async def measured(console: Console, credentials: Credentials, order: Order) -> Report:
    """Measure, print the table, write the files."""
    with console.status("measuring") as status:
        report = await run_report(
            target(credentials, order), lambda text: status.update(f"measuring: {text}")
        )
    write(report, order.html, order.json)
    console.print(render(report))
    for path in (order.html, order.json):
        if path is not None:
            console.print(f"wrote {path}")
    return report


def target(credentials: Credentials, order: Order) -> ReportTarget:
    """The report's target on this platform."""
    regions = order.regions or tuple(credentials.regions)
    return ReportTarget(
        base_url=credentials.base_url,
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
