"""The sections of the further arms: each figure with what it says and its table."""

from deploy.report.arms import STARTS
from deploy.report.document import Report
from deploy.report.more.found import Ceiling, Gap, Herd, Load, answered
from deploy.report.page.figures import families_legend, stack
from deploy.report.page.markup import Html, join, tag
from deploy.report.page.plots import Bar, bars, legend
from deploy.report.page.scale import Linear, Logarithmic
from deploy.report.page.scatter import Dot, Ray, scatter
from deploy.report.page.tables import folded
from deploy.report.sample import Sample
from deploy.report.words import NONE, ms, num_bytes, per_s, seconds, starts, tick
from wire.counted import counted

MAX_HERD_BARS = 32  # of a large herd every so many-th by its time
LEAST_GAP_S = 0.05  # a gap of nothing has no place on a scale of decades
PLAIN_READ = ("one object, by one connection", "bytes", "rate")
RAYS = {"region": "region", "remote": "warm"}
WHOSE = {
    "region": "the region\N{RIGHT SINGLE QUOTATION MARK}s own store",
    "remote": "the home region\N{RIGHT SINGLE QUOTATION MARK}s store",
}


def herd_figure(herd: Herd) -> Html:
    """A bar for each request, in the order of their first tokens, by what the time was spent on."""
    ordered = sorted(answered(herd.samples), key=lambda sample: sample.ttft_ms or 0.0)
    failed = len(herd.samples) - len(ordered)
    if not ordered:
        return tag("p", "None of them was answered.", class_="failed")
    step = -(-len(ordered) // MAX_HERD_BARS)
    drawn = ordered[::-step][::-1]  # the slowest is always among them
    axis = Linear(ordered[-1].ttft_ms or 0.0)
    rows = [Bar(_ordinal(ordered.index(each) + 1), stack(each), ms(each.ttft_ms)) for each in drawn]
    moved = sum(herd.num_bytes.values())
    facts = (
        f"{counted(len(herd.samples), 'request')} at the same moment in {herd.region}: ",
        tag("strong", starts(len(herd.starts))),
        ", ",
        tag("strong", num_bytes(moved)),
        " read, ",
        tag("strong", num_bytes(herd.num_bytes.get("remote", 0))),
        " of it from another region. First token after ",
        tag("strong", ms(ordered[0].ttft_ms)),
        " for the soonest, ",
        tag("strong", ms(ordered[-1].ttft_ms)),
        f" for the last; {failed or 'none'} failed.",
    )
    return join(
        tag("p", *facts),
        families_legend(drawn),
        tag("div", bars(rows, axis, [tick(t) for t in axis.ticks()], labels=False), class_="dense"),
        folded(
            ("request", "first token", "found"),
            [(str(i), ms(s.ttft_ms), s.start.value) for i, s in enumerate(ordered, 1)],
        ),
    )


def _ordinal(number: int) -> str:
    return f"no. {number}"


def gaps_figure(gaps: tuple[Gap, ...]) -> Html:
    """Time to first token over how long the model was left alone, coloured by what it was found in."""
    points = [(gap, sample) for gap in gaps for sample in answered(gap.samples)]
    if not points:
        return tag("p", "None of them was answered.", class_="failed")
    longest = max(max(gap.gap_s, LEAST_GAP_S) for gap, _ in points)
    shortest = min(max(gap.gap_s, LEAST_GAP_S) for gap, _ in points)
    across = Logarithmic.over(shortest, longest)
    up = Linear(1.08 * max(sample.ttft_ms or 0.0 for _, sample in points))
    dots = [
        Dot(
            max(gap.gap_s, LEAST_GAP_S),
            sample.ttft_ms or 0.0,
            sample.start.value,
            f"after {seconds(gap.gap_s)}: {ms(sample.ttft_ms)}, found {sample.start.value}",
        )
        for gap, sample in points
    ]
    seen = [start for start in STARTS if any(sample.start is start for _, sample in points)]
    said = f"Time to first token in {gaps[0].region} after the model was left alone. The table below has each value."
    words = ([seconds(t) for t in across.ticks()], [tick(t) for t in up.ticks()])
    return join(
        legend([(start.value, f"found {start.value}") for start in seen]),
        scatter(dots, (), (across, up), words, said),
        folded(
            ("left alone", "first token", "found"),
            [(seconds(gap.gap_s), ms(sample.ttft_ms), sample.start.value) for gap, sample in points],
        ),
    )


def sizes_figure(loads: tuple[Load, ...], ceilings: tuple[Ceiling, ...]) -> Html:
    """Time of a start over bytes of weights, and the lines below which no store of this run can bring it."""
    points = [(load, sample) for load in loads for sample in answered(load.samples) if sample.eta is not None]
    if not points:
        return tag("p", "No start told its time.", class_="failed")
    sizes = [float(load.num_bytes) for load in loads]
    times = [sample.eta.took_ms for _, sample in points if sample.eta]
    across = Logarithmic.over(min(sizes) / 1.5, max(sizes) * 1.5)
    floors = [num / each.bytes_per_s * 1000 for each in ceilings for num in (across.least, across.most)]
    up = Logarithmic.over(min([*times, *floors]), max([*times, *floors]))
    models = list(dict.fromkeys(load.model for load in loads))
    dots = [
        Dot(
            float(load.num_bytes),
            sample.eta.took_ms,
            "host",
            f"{load.model}: {num_bytes(load.num_bytes)}, {ms(sample.eta.took_ms)}",
        )
        for load, sample in points
        if sample.eta
    ]
    rays = [_ray(each, across) for each in ceilings]
    words = ([num_bytes(t).replace(".0 ", " ") for t in across.ticks()], [tick(t) for t in up.ticks()])
    whose = counted(len(models), "model")
    said = f"Time of a start against bytes of weights, of {whose}. The table below has each value."
    return join(
        legend(
            [
                ("host", "one start"),
                *dict.fromkeys(
                    (RAYS[each.source], f"{WHOSE[each.source]}, read at full rate") for each in ceilings
                ),
            ]
        ),
        scatter(dots, rays, (across, up), words, said),
        _load_table(loads, ceilings),
    )


def _ray(ceiling: Ceiling, across: Logarithmic) -> Ray:
    ends = [(num, num / ceiling.bytes_per_s * 1000) for num in (across.least, across.most)]
    return Ray(
        ends, RAYS[ceiling.source], f"{ceiling.region}, {WHOSE[ceiling.source]}: {per_s(ceiling.bytes_per_s)}"
    )


def _load_table(loads: tuple[Load, ...], ceilings: tuple[Ceiling, ...]) -> Html:
    rates = {each.region: each.bytes_per_s for each in ceilings if each.source == "region"}
    rows = [
        (
            load.model,
            num_bytes(load.num_bytes),
            str(len(load.samples)),
            ms(load.took_ms),
            ms(load.num_bytes / rates[load.region] * 1000) if load.region in rates else NONE,
        )
        for load in loads
    ]
    measured = [
        (f"{each.region}: {WHOSE[each.source]}", num_bytes(each.num_bytes), per_s(each.bytes_per_s))
        for each in ceilings
    ]
    heads = ("model", "weights", "n", "middle start", "bytes \N{DIVISION SIGN} plain read")
    return join(
        folded(heads, rows),
        folded(PLAIN_READ, measured, said="The plain reads") if measured else None,
    )


def middle_sample(samples: list[Sample]) -> Sample | None:
    """The middle one by time to first token, of two the slower."""
    ordered = sorted(samples, key=lambda sample: sample.ttft_ms or 0.0)
    return ordered[1 if len(ordered) == 2 else (len(ordered) - 1) // 2] if ordered else None


def failures(report: Report) -> Html | None:
    """Arms that could not be run."""
    lost = [tag("li", f"{name}: {why}", class_="failed") for name, why in report.more.failures.items()]
    return tag("ul", *lost, class_="method") if lost else None
