"""From the report to its figures: which request, which parts, which axis."""

from collections.abc import Sequence

from deploy.report.arms import STARTS, Start
from deploy.report.document import Report, Row
from deploy.report.page.markup import Html, join, tag
from deploy.report.page.plots import Bar, Line, Part, bars, colour, distribution, legend, stacked
from deploy.report.page.scale import Linear, Logarithmic
from deploy.report.page.tables import folded, scrolled
from deploy.report.phases import Breakdown, Family, shown
from deploy.report.sample import SOURCES, Sample
from deploy.report.stats import ecdf
from deploy.report.words import ms, num_bytes, share, tick, times

SOURCE_COLOURS = {
    "remote": "warm",
    "region": "region",
    "copied": "origin",
    "mapped": "resident",
    "host": "host",
}
SOURCE_WORDS = {
    "remote": "another region",
    "region": "the region's own store",
    "copied": "that store's files on this host, copied",
    "mapped": "that store's files on this host, mapped in place",
    "host": "the host's memory",
}


def family_colour(family: Family) -> str:
    """The page's colour of a family of phases."""
    return f"f-{family.value.replace(' ', '-')}"


def by_family(breakdown: Breakdown) -> dict[Family, float]:
    """The phases gathered by what the time is spent on, in order; a negative rest is left out."""
    found: dict[Family, float] = {}
    for name, spent in breakdown.phases_ms.items():
        if spent > 0:
            family = shown(name).family
            found[family] = found.get(family, 0.0) + spent
    return found


def stack(sample: Sample) -> list[Part]:
    """One request's time to first token, by what it was spent on."""
    if sample.before_first is None:
        return []
    families = by_family(sample.before_first)
    return stacked([(t, family_colour(f), f.value, ms(t)) for f, t in families.items()])


def stacked_phases(report: Report) -> Html:
    """The time to the first token by what it was spent on, every region and start state over one axis."""
    drawn = [row for row in report.rows if row.typical is not None]
    most = max((row.typical.ttft_ms or 0.0 for row in drawn if row.typical), default=0.0)
    axis = Linear(most)
    groups = []
    for region in report.settings.regions:
        rows = [
            _phase_bar(row.start.value, row.typical) for row in drawn if row.region == region and row.typical
        ]
        if rows:
            groups.append(join(tag("h3", region), bars(rows, axis, [tick(t) for t in axis.ticks()])))
    shown_samples = [row.typical for row in drawn if row.typical]
    return join(families_legend(shown_samples), *groups, _phase_table(drawn))


def _phase_table(rows: Sequence[Row]) -> Html:
    """The same in figures."""
    spent = [
        by_family(row.typical.before_first) if row.typical and row.typical.before_first else {}
        for row in rows
    ]
    seen = [family for family in Family if any(family in each for each in spent)]
    heads = ("region", "start state", *(family.value for family in seen), "first token")
    made = [
        (
            row.region,
            row.start.value,
            *(ms(each[family]) if family in each else "" for family in seen),
            ms(row.typical.ttft_ms if row.typical else None),
        )
        for row, each in zip(rows, spent, strict=True)
    ]
    return folded(heads, made, 2)


def predicted(report: Report) -> Html:
    """What the gateways expected of the starts that requests waited for, and what they took."""
    rows = [row for row in report.rows if row.predicted_ms is not None and row.took_ms is not None]
    if not rows:
        return tag("p", "No request waited for a start.")
    axis = Linear(max(max(row.predicted_ms or 0.0, row.took_ms or 0.0) for row in rows))
    groups = []
    for region in report.settings.regions:
        made = [bar for row in rows if row.region == region for bar in _expected_and_took(row)]
        if made:
            groups.append(tag("div", tag("h3", region), bars(made, axis, labels=False)))
    figures = [
        (
            row.region,
            row.start.value,
            str(row.took_n),
            ms(row.predicted_ms),
            ms(row.took_ms),
            share(row.eta_error),
        )
        for row in rows
    ]
    heads = ("region", "start state", "n", "expected (middle)", "took (middle)", "median error")
    return join(
        legend([("f-wake", "expected when the start began"), ("f-attach", "took")]),
        tag("div", *groups, class_="trio"),
        folded(heads, figures, 2),
    )


def _expected_and_took(row: Row) -> list[Bar]:
    expected, took = row.predicted_ms or 0.0, row.took_ms or 0.0
    return [
        Bar(row.start.value, [Part(0.0, expected, "f-wake", "expected", ms(expected))], ms(expected)),
        Bar("", [Part(0.0, took, "f-attach", "took", ms(took))], ms(took)),
    ]


def warm_phases(report: Report) -> Html | None:
    """The warm rows alone, on an axis of their own, where the coldest bars leave them no width."""
    rows = [row for row in report.rows if row.start is Start.WARM and row.typical is not None]
    most = max((row.typical.ttft_ms or 0.0 for row in rows if row.typical), default=0.0)
    if not rows or most <= 0:
        return None
    axis = Linear(most)
    made = [_phase_bar(row.region, row.typical) for row in rows if row.typical]
    return join(
        tag("h3", "The warm requests, on a scale of their own"),
        bars(made, axis, [tick(t) for t in axis.ticks()]),
    )


def _phase_bar(name: str, sample: Sample) -> Bar:
    return Bar(name, stack(sample), ms(sample.ttft_ms))


def families_legend(samples: Sequence[Sample]) -> Html:
    """What the colours of their phases mean."""
    seen = {f for sample in samples if sample.before_first for f in by_family(sample.before_first)}
    return legend([(family_colour(family), family.value) for family in Family if family in seen])


def distributions(report: Report) -> Html:
    """One field a region: the share of requests answered within a time, a curve for each start state."""
    times_ms = [s.ttft_ms for start in STARTS for s in report.of(start) if s.ttft_ms]
    if not times_ms:
        return tag("p", "No request gave a first token.")
    axis = Logarithmic.over(min(times_ms), max(times_ms))
    fields = []
    for region in report.settings.regions:
        lines = [
            Line(start.value, start.value, ecdf([s.ttft_ms for s in mine if s.ttft_ms]))
            for start in STARTS
            if (mine := report.of(start, region))
        ]
        said = f"{region}: " + ", ".join(f"{line.name} from {ms(line.points[0][0])}" for line in lines)
        words = [tick(t) for t in axis.ticks()]
        fields.append(tag("div", tag("h3", region), distribution(lines, axis, words, said)))
    seen = [start for start in STARTS if report.of(start)]
    return join(legend([(s.value, s.value) for s in seen]), tag("div", *fields, class_="trio"))


def sources(report: Report) -> Html:
    """Bytes by source for the median request of each cold row, and what they cost against measured bandwidth."""
    rows = [row for row in report.rows if row.typical and row.start is not Start.WARM]
    most = max((sum(row.typical.num_bytes.values()) for row in rows if row.typical), default=0)
    axis = Linear(float(most))
    groups = []
    for region in report.settings.regions:
        made = [
            _source_bar(row.start.value, row.typical) for row in rows if row.region == region and row.typical
        ]
        if made:
            groups.append(tag("div", tag("h3", region), bars(made, axis, labels=False)))
    seen = [s for s in SOURCES if any(row.typical.num_bytes.get(s) for row in rows if row.typical)]
    return join(
        legend([(SOURCE_COLOURS[source], SOURCE_WORDS[source]) for source in seen]),
        tag("div", *groups, class_="trio"),
        _floors(report),
    )


def _source_bar(name: str, sample: Sample) -> Bar:
    parts = stacked(
        [
            (float(n), SOURCE_COLOURS[source], SOURCE_WORDS[source], num_bytes(n))
            for source in SOURCES
            if (n := sample.num_bytes.get(source, 0))
        ]
    )
    known = len(sample.num_bytes) == len(SOURCES)  # else only what came from another region was said
    said = num_bytes(sum(sample.num_bytes.values()))
    return Bar(name, parts, said if known else f"{said} remote")


FLOOR_HEADS = (
    "region",
    "start state",
    "bytes read",
    "bytes \N{DIVISION SIGN} bandwidth",
    "waited for bytes",
    "of measured bandwidth",
    "first token",
)


def _floors(report: Report) -> Html | None:
    rows = [row for row in report.rows if row.floor_ms is not None and row.typical is not None]
    if not rows:
        return None
    made = []
    for row in rows:
        ratio = row.floor_ms / row.moving_ms if row.floor_ms and row.moving_ms else None
        hidden = (
            ratio is not None and ratio > 1
        )  # bytes landed while other work went on, so nobody waited for them
        moved = sum(row.typical.num_bytes.values()) if row.typical else 0
        cells = (
            num_bytes(moved),
            ms(row.floor_ms),
            ms(row.moving_ms),
            "overlapped" if hidden else share(ratio),
        )
        ttft = row.typical.ttft_ms if row.typical else None
        figure = f"{ms(ttft)} ({times(ttft, row.floor_ms)} the floor)"
        made.append((row, (*cells, figure)))
    return join(tag("h3", "Against the bandwidth measured in the same run"), table(FLOOR_HEADS, made))


def table(heads: Sequence[str], rows: Sequence[tuple[Row, Sequence[str | Html]]]) -> Html:
    """A table of rows by region and start state; the region is said once."""
    head = tag(
        "tr",
        *(tag("th", words, class_="left" if i < 2 else None, scope="col") for i, words in enumerate(heads)),
    )
    made, before = [], ""
    for row, cells in rows:
        first = row.region != before
        swatch = tag("span", class_="swatch", style=colour(row.start.value))
        names = (
            tag("td", row.region if first else ""),
            tag("td", join(swatch, row.start.value), class_="left"),
        )
        made.append(
            tag("tr", *names, *(tag("td", cell) for cell in cells), class_="first" if first else None)
        )
        before = row.region
    return scrolled(tag("table", tag("thead", head), tag("tbody", *made)), "region and start state")
