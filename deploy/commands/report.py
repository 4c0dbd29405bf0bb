"""`nearfield report`: measures, prints the table, writes the files, judges."""

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import typer
from rich.console import Console

from deploy.client import ApiError, Client, Unreachable
from deploy.faults import NotLive
from deploy.models.standing import standings
from deploy.prices.book import PricesError
from deploy.prices.reading import usual
from deploy.report.document import Report
from deploy.report.gate.figures import Document
from deploy.report.gate.grammar import Condition, GrammarError, parse
from deploy.report.gate.verdict import Verdict, judge
from deploy.report.measure import ReportTarget, run_report
from deploy.report.more.terms import Terms, load_terms
from deploy.report.more.wanted import Wanted
from deploy.report.more.wanted import parse as parse_arms
from deploy.report.out.shape import NotAReport, read_document
from deploy.report.out.values import as_json_document
from deploy.report.out.write import Outputs, render, write
from deploy.report.page.html import page
from deploy.report.words import best
from deploy.terminal import show
from deploy.terminal.exits import Exit
from deploy.trust.credentials import Credentials

__all__ = ["Order", "Outputs", "further", "gate", "run"]

MAX_SEED = 1_000_000
REPORTS = "/nearfield/reports"


@dataclass(frozen=True, slots=True)
class Gate:
    """What must not be so of the report, and the earlier one that it is compared with."""

    conditions: tuple[Condition, ...] = ()
    base: Document | None = None

    def verdicts(self, document: Document) -> list[Verdict]:
        """Of every condition, in each region that it speaks of."""
        return [each for condition in self.conditions for each in judge(condition, document, self.base)]


@dataclass(frozen=True, slots=True)
class Order:
    """What to measure, where to write it and what must not be so."""

    model: str
    regions: tuple[str, ...] | None
    num_cold: int
    num_warm: int
    seed: int | None
    outputs: Outputs = field(default_factory=Outputs)
    rate: float | None = None
    more: Wanted = field(default_factory=Wanted)
    prices: Path | None = None
    gate: Gate = field(default_factory=Gate)


def further(names: str, herd: int | None, gaps: str | None) -> Wanted:
    """The further arms as they were asked for. Raises: BadParameter."""
    try:
        return parse_arms(names, herd, gaps)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def gate(conditions: Sequence[str], base: Path | None) -> Gate:
    """The conditions, read before anything is measured. Raises: BadParameter."""
    return Gate(read_conditions(conditions), earlier(base) if base else None)


def earlier(path: Path) -> Document:
    """A report that was written before. Raises: BadParameter."""
    try:
        return read_document(path)
    except NotAReport as error:
        raise typer.BadParameter(str(error)) from error


def priced(credentials: Credentials, path: Path | None) -> Terms:
    """The price file that is named, the state folder's, or the one that is shipped. Raises: BadParameter."""
    try:
        return load_terms(path or usual(Path(credentials.state)), credentials.regions)
    except PricesError as error:
        raise typer.BadParameter(str(error)) from error


def read_conditions(conditions: Sequence[str]) -> tuple[Condition, ...]:
    """Raises: BadParameter."""
    try:
        return tuple(parse(text) for text in conditions)
    except GrammarError as error:
        raise typer.BadParameter(f"--fail-if: {error}; docs/report.md has the language") from error


def run(credentials: Credentials, order: Order, *, as_json: bool) -> int:
    """Measure and show; returns the exit status: 6 if a condition of the gate is so, 1 if a request failed.

    Raises:
        NotLive: the model is not live where it should be measured, or a file cannot be written where it was asked for.
        BadParameter: the price file cannot be used.
    """
    console = show.console(quiet=as_json)
    report = asyncio.run(measured(console, credentials, settled(credentials, order)))
    if as_json:
        show.emit_json(as_json_document(report))
    verdicts = order.gate.verdicts(as_json_document(report)) if order.gate.conditions else []
    for verdict in verdicts:
        show.problems().print(f"{'failed' if verdict.failed else 'passed'}: {verdict.words}", markup=False)
    if any(verdict.failed for verdict in verdicts):
        return Exit.GATE_FAILED
    return Exit.FAILED if report.num_failed else Exit.OK


def settled(credentials: Credentials, order: Order) -> Order:
    """The order with its regions named (where the model is live, if none were), checked before anything is measured."""
    for _, path in order.outputs.named():
        if not path.absolute().parent.is_dir():
            raise NotLive("not_found", f"{path.parent} is not a folder", f"mkdir -p {path.parent}")
    status = Client(credentials, admin=True).get("/nearfield/status").body
    live = [region for region, standing in standings(status, order.model).items() if standing.live]
    missing = [region for region in order.regions or () if region not in live]
    if missing or not live:
        where = f"in {missing[0]}" if missing else "anywhere"
        raise NotLive("not_found", f"{order.model} is not live {where}", "See where it is: nearfield ls")
    return replace(order, regions=order.regions or tuple(live))


async def measured(
    console: Console, credentials: Credentials, order: Order, *, is_shelved: bool = True
) -> Report:
    """Measure, print the table, write the files; with `is_shelved` the console gets the page too."""
    terms = priced(credentials, order.prices)
    with console.status("measuring") as status:
        report = await run_report(
            target(credentials, order, terms), lambda text: status.update(f"measuring: {text}")
        )
    console.print(render(report))
    write(report, order.outputs)
    for _, path in order.outputs.named():
        console.print(f"wrote {path}", markup=False)
    if is_shelved:
        shelve(console, credentials, report)
    return report


def shelve(console: Console, credentials: Credentials, report: Report) -> None:
    """Bring the page to the edge, whose console shows the last ones. An edge that takes none spoils no report."""
    about = {"model": report.settings.model, "revision": report.revision, "made_at": report.settings.made_at}
    rows = [
        {"region": row.region, "start": row.start.value, "p50_ms": best(row.ttft_ms)} for row in report.rows
    ]
    try:
        Client(credentials, admin=True).post(REPORTS, {**about, "rows": rows, "html": page(report)})
    except (ApiError, Unreachable) as error:
        console.print(f"[dim]the console does not have it: {error}[/]")
    else:
        console.print(f"also at {credentials.admin_url}/console/#reports")


def target(credentials: Credentials, order: Order, terms: Terms) -> ReportTarget:
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
        seed=secrets.randbelow(MAX_SEED) if order.seed is None else order.seed,
        rate=order.rate,
        more=order.more,
        terms=terms,
        credentials=credentials,
    )
