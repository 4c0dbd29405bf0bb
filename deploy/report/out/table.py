"""The report in a terminal: two narrow tables and a verdict."""

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from deploy.report.arms import Start
from deploy.report.document import Report, Row
from deploy.report.more.found import middle_ttft
from deploy.report.page.figures import by_family
from deploy.report.phases import Family
from deploy.report.words import (
    NONE,
    at_hand,
    best,
    best_rate,
    estimates,
    ms,
    num_bytes,
    share,
    spread,
    starts,
    times,
)
from wire.counted import counted

COLOURS = {
    Start.ORIGIN: "blue",
    Start.REGION: "bright_blue",
    Start.HOST: "cyan",
    Start.RESIDENT: "yellow",
    Start.WARM: "bright_red",
}
COLUMNS: tuple[tuple[str, frozenset[Family]], ...] = (  # short heads: the table fits 80 columns
    ("net", frozenset({Family.NETWORK, Family.CLIENT})),
    ("hops", frozenset({Family.EDGE, Family.GATEWAY})),
    ("from home", frozenset({Family.PULL})),
    ("fork", frozenset({Family.WAKE, Family.FORK})),
    ("bytes", frozenset({Family.FETCH})),
    ("attach", frozenset({Family.ATTACH})),
    ("first run", frozenset({Family.FIRST})),
    ("prompt", frozenset({Family.PROMPT})),
    ("prefill", frozenset({Family.PREFILL})),
    ("rest", frozenset({Family.UNATTRIBUTED, Family.DECODE})),
)
WHOLE_MS = 99.95  # from here on a decimal says nothing
SMALLEST_MS = 0.05  # shown as a dot: the tables have one decimal
NARROWEST = 4  # characters of a column


def render(report: Report) -> RenderableType:
    """What `console.print` shows."""
    return Group(_title(report), _times(report), Text(), _spent(report), Text(), *_verdict(report))


def _title(report: Report) -> Text:
    title = Text.assemble(("Cold start against warm", "bold"), f"  {report.settings.model}")
    for words in report.settings.simulated:
        title.append(f"\nSimulated: {words}", style="yellow")
    return title


def _quiet(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="italic",
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )


def _named(table: Table) -> Table:
    table.add_column("region", style="bold")
    table.add_column("start")
    return table


def _names(row: Row, before: str) -> tuple[str, str]:
    colour = COLOURS[row.start]
    return escape(row.region) if row.region != before else "", f"[{colour}]{row.start.value}[/]"


def _times(report: Report) -> Table:
    table = _named(_quiet("Time to first token, and all else, by start state"))
    for head in (
        "n",
        "p50",
        "interval\nor range",
        "p99",
        "vs\nwarm",
        "end to\nend",
        "tok/s",
        "remote\nbytes",
    ):
        table.add_column(head, justify="right", vertical="bottom")
    before = ""
    for row in report.rows:
        warm = report.row(row.region, Start.WARM)
        cold = row.start is not Start.WARM
        tokens = best_rate(row.tokens_per_s)
        table.add_row(
            *_names(row, before),
            f"{row.num_asked}" + (f" [red]({row.num_failed} failed)[/]" if row.num_failed else ""),
            ms(row.ttft_ms.p50),
            spread(row.ttft_ms),
            ms(row.ttft_ms.p99),
            times(best(row.ttft_ms), best(warm.ttft_ms)) if cold and warm else NONE,
            ms(best(row.e2e_ms)),
            f"{tokens:.0f}" if tokens is not None else NONE,
            num_bytes(row.most_remote_bytes),
        )
        before = row.region
    return table


def _spent(report: Report) -> Table:
    """The median request's time to first token by what it was spent on."""
    found = [
        (row, by_family(row.typical.before_first))
        for row in report.rows
        if row.typical is not None and row.typical.before_first is not None
    ]
    table = _named(_quiet("Where the median request's time to first token goes, ms"))
    for head, _ in COLUMNS:
        table.add_column(head.replace(" ", "\n"), justify="right", vertical="bottom", min_width=NARROWEST)
    before = ""
    for row, spent in found:
        table.add_row(*_names(row, before), *(_cell(spent, families) for _, families in COLUMNS))
        before = row.region
    return table


def _cell(spent: Mapping[Family, float], families: frozenset[Family]) -> str:
    total = sum(spent.get(family, 0.0) for family in families)
    if total < SMALLEST_MS:
        return "[dim]\N{MIDDLE DOT}[/]"
    return f"{total:.0f}" if total >= WHOLE_MS else f"{total:.1f}"


def _verdict(report: Report) -> list[Text]:
    inside = [row.most_remote_bytes for row in report.rows if row.start is not Start.ORIGIN]
    remote = max(inside, default=0)
    lines = [
        _line(
            report.sums, f"phases account for the wall time: at most {share(report.worst_share)} unattributed"
        ),
        _line(
            remote == 0, f"{num_bytes(remote)} read from another region, once the bytes were in the region"
        ),
        _line(not report.num_failed, f"{report.num_failed} of {counted(report.num_asked, 'request')} failed"),
    ]
    if report.at_hand:
        lines.append(Text(f"    {at_hand(report.at_hand)}", style="yellow"))
    if report.num_estimates:
        lines.append(Text(f"    {estimates(report.num_estimates, report.eta_error)}", style="dim"))
    for row in report.rows:
        for why, count in row.failures.items():
            lines.append(Text(f"  {row.region} {row.start.value}: {count} x {why}", style="red"))
    lines += _further(report)
    if any(row.ttft_ms.p50 is None for row in report.rows):
        few = "A p50 needs 20 requests, a p99 1,000; with fewer the range is shown, and the slowest counts."
        lines.append(Text(few, style="dim"))
    lines.append(Text(f"The order of the arms is that of seed {report.settings.seed}.", style="dim"))
    return lines


def _further(report: Report) -> list[Text]:
    """What further arms came to, and those that could not be run."""
    more, lines = report.more, []
    if more.split is not None:
        near, far = (middle_ttft(side.of(Start.REGION)) for side in (more.split.together, more.split.apart))
        where = f"store {more.split.rtt_ms:g} ms away (simulated)"
        lines.append(Text(f"    {where}: a cold start takes {ms(far)} instead of {ms(near)}"))
    if more.herd is not None:
        herd = more.herd
        moved = num_bytes(sum(herd.num_bytes.values()))
        lines.append(
            Text(
                f"    herd of {len(herd.samples)} in {herd.region}: {starts(len(herd.starts))}, {moved} read"
            )
        )
    lines += [Text(f"no  {name} was not measured: {why}", style="red") for name, why in more.failures.items()]
    return lines


def _line(good: bool, words: str) -> Text:
    return Text.assemble(("ok  ", "green") if good else ("no  ", "red"), words)
