"""One request on a time line: every phase where it lay, steps too short to see in one row."""

from collections.abc import Mapping
from dataclasses import dataclass

from deploy.report.arms import Start
from deploy.report.document import Report, Row
from deploy.report.figures import family_colour
from deploy.report.markup import Html, join, tag
from deploy.report.phases import UNATTRIBUTED, Breakdown, shown
from deploy.report.plots import Bar, Part, bars
from deploy.report.scale import Linear
from deploy.report.words import ms, tick

DRAWN = (Start.REGION, Start.WARM)
SMALL_SHARE = 0.004  # of the request: about two pixels


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a request in ms from its start."""

    begin: float
    end: float


def waterfalls(report: Report) -> Html:
    """The median request of the region state and of the warm state, each from where it answered soonest."""
    rows = [row for start in DRAWN if (row := report.nearest(start)) is not None and _drawable(row)]
    return join(*map(_one, rows)) if rows else tag("p", "No request carried receipts.")


def _drawable(row: Row) -> bool:
    return bool(row.typical and row.typical.whole and len(row.typical.whole.phases_ms) > 1)


def _one(row: Row) -> Html | None:
    sample = row.typical
    if sample is None or sample.whole is None:
        return None
    title = f"{row.region}, {row.start.value}: {ms(sample.e2e_ms)} end to end"
    return join(tag("h3", title), waterfall(sample.whole, sample.ttft_ms))


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
