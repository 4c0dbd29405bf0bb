"""One request on a time line: every phase where it lay, steps too short to see in one row."""

from collections.abc import Mapping
from dataclasses import dataclass

from deploy.report.arms import Start
from deploy.report.document import Report, Row
from deploy.report.page.figures import family_colour
from deploy.report.page.markup import Html, join, tag
from deploy.report.page.plots import Bar, Part, bars
from deploy.report.page.scale import Linear
from deploy.report.phases import UNATTRIBUTED, Breakdown, shown
from deploy.report.sample import Sample
from deploy.report.stats import MIN_SAMPLES_P50, MIN_SAMPLES_P99
from deploy.report.words import ms, tick

DRAWN = (Start.REGION, Start.WARM)
SMALL_SHARE = 0.004  # of the request: about two pixels


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a request in ms from its start."""

    begin: float
    end: float


def waterfalls(report: Report) -> Html:
    """The median request and the slow one of a cold and of the warm state, each from where it answered soonest."""
    rows = [row for start in DRAWN if (row := report.nearest(start)) is not None]
    made = [figure for row in rows for figure in _both(row)]
    return join(*made) if made else tag("p", "No request carried receipts.")


def _both(row: Row) -> list[Html]:
    n = row.ttft_ms.n
    slow = "p99" if n >= MIN_SAMPLES_P99 else f"the slowest of {n}"
    middle = "p50" if n >= MIN_SAMPLES_P50 else f"the middle one of {n}"
    pairs = [(middle, row.typical)] + ([(slow, row.slow)] if row.slow is not row.typical else [])
    return [
        _one(f"{row.region}, {row.start.value}, {words}", sample)
        for words, sample in pairs
        if _drawable(sample)
    ]


def _drawable(sample: Sample | None) -> bool:
    return bool(sample and sample.whole and len(sample.whole.phases_ms) > 1)


def _one(title: str, sample: Sample | None) -> Html:
    if sample is None or sample.whole is None:
        return Html()
    return join(
        tag("h3", f"{title}: {ms(sample.e2e_ms)} end to end"), waterfall(sample.whole, sample.ttft_ms)
    )


def waterfall(breakdown: Breakdown, ttft_ms: float | None) -> Html:
    """The time line, and the first token's place on it unless it is the end."""
    axis = Linear(breakdown.wall_ms)
    spans = spans_of(breakdown)
    small = [name for name in spans if breakdown.phases_ms[name] < SMALL_SHARE * breakdown.wall_ms]
    rows = [_row(shown(name).label, [name], spans, breakdown) for name in spans if name not in small]
    if small:
        rows.append(_row(f"{len(small)} shorter steps", small, spans, breakdown))
    if ttft_ms is not None and ttft_ms < breakdown.wall_ms * (1 - SMALL_SHARE):
        rows.append(Bar("first token", [Part(0.0, ttft_ms, "ink", "first token", ms(ttft_ms))], ms(ttft_ms)))
    return tag("div", bars(rows, axis, [tick(t) for t in axis.ticks()], labels=False), class_="thin")


def _row(label: str, names: list[str], spans: Mapping[str, list[Span]], breakdown: Breakdown) -> Bar:
    parts = [
        Part(
            s.begin,
            s.end,
            family_colour(shown(name).family),
            shown(name).label,
            ms(breakdown.phases_ms[name]),
        )
        for name in names
        for s in spans[name]
    ]
    return Bar(label, parts, ms(sum(breakdown.phases_ms[name] for name in names)))


def spans_of(breakdown: Breakdown) -> dict[str, list[Span]]:
    """Where each phase lies: in order, networks half before and half after what is behind them, the rest last."""
    forward = [name for name, spent in breakdown.phases_ms.items() if name != UNATTRIBUTED and spent > 0]
    networks = [name for name in forward if name.startswith("net.")]
    found: dict[str, list[Span]] = {}
    at = 0.0
    for name in (*forward, *reversed(networks), UNATTRIBUTED):
        length = max(0.0, breakdown.phases_ms.get(name, 0.0)) * (0.5 if name in networks else 1.0)
        if length:
            found.setdefault(name, []).append(Span(at, at + length))
        at += length
    return found
