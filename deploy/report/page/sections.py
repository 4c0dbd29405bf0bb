"""The page's sections: a heading, a sentence on what is seen, the figure."""

from deploy.report.arms import MEANING, STARTS, Start
from deploy.report.document import Report, Row
from deploy.report.method import METHOD
from deploy.report.page.figures import distributions, predicted, stacked_phases, table, warm_phases
from deploy.report.page.figures import sources as byte_sources
from deploy.report.page.further import failures, gaps_figure, herd_figure, sizes_figure
from deploy.report.page.markup import Html, join, tag
from deploy.report.page.places import heat_map
from deploy.report.page.split import counterfactual
from deploy.report.page.waterfall import waterfalls
from deploy.report.stats import MIN_SAMPLES_P50, MIN_SAMPLES_P99
from deploy.report.words import NONE, best, best_rate, ms, num_bytes, share, spread, times
from wire.counted import counted

HEADS = (
    "region",
    "start state",
    "n",
    "p50",
    "interval or range",
    "p99",
    "against warm",
    "end to end",
    "tokens/s",
    "unattributed",
    "remote bytes",
)


def sections(report: Report) -> list[Html]:
    """In the order in which they are read."""
    return [
        _section(
            "Where the time to the first token goes",
            "The middle request of each region and start state, by what its time was spent on. Every bar is one real "
            "request, so its parts sum to a time that was measured.",
            join(stacked_phases(report), warm_phases(report)),
        ),
        _section(
            "Every request",
            "The share of requests that had their first token within a time; further left is sooner. The scale is "
            "logarithmic.",
            distributions(report),
        ),
        _section(
            "One request, step by step",
            "The middle and the slow request from the region\N{RIGHT SINGLE QUOTATION MARK}s store, and the "
            "median and the slow warm one, to their last byte. Network time is drawn half on the way there, half "
            "on the way back.",
            waterfalls(report),
        ),
        _section(
            "Where the bytes came from",
            "What the middle request of each cold start state read before it could run. A model that is in its region "
            "never reads from another.",
            byte_sources(report),
        ),
        _section(
            "Expected and taken",
            "When a start begins, the gateway says how long it should take, from the bandwidths that it measured; "
            "edges choose regions by the same figure. Here it is held against what the start took.",
            predicted(report),
        ),
        *_further(report),
        _section(
            "All figures",
            "p50, p99, interval and range are of the time to the first token.",
            _figures(report),
        ),
        _section("How it was measured", None, _method(report)),
    ]


def _further(report: Report) -> list[Html]:
    """The sections of the further arms, as far as they were run."""
    more, made = report.more, []
    if more.split is not None and report.terms is not None:
        words = (
            "The same model, code and machine, asked in one shuffled order: once with its store in the same region, "
            "once with the store in another one, at a simulated distance."
        )
        made.append(_section("If the store were elsewhere", words, counterfactual(more.split, report.terms)))
    if more.places:
        words = (
            "Warm requests, by where the client stands and which region it asks. The distances are simulated."
        )
        made.append(_section("From everywhere to everywhere", words, heat_map(more.places)))
    if more.herd is not None:
        words = "Many clients find the model cold at the same moment. One start serves them all."
        made.append(_section("A herd", words, herd_figure(more.herd)))
    if more.gaps:
        words = "How soon a model answers that was left alone for a while: what is kept, and for how long."
        made.append(_section("Left alone", words, gaps_figure(more.gaps)))
    if more.loads:
        words = (
            "Every live model of one region, started from its own store. No start can be faster than its bytes, so the "
            "lines are the floor: what a plain client read from the stores in this run."
        )
        made.append(_section("Start time against bytes", words, sizes_figure(more.loads, more.ceilings)))
    if more.failures:
        made.append(
            _section("Not measured", "Arms that were asked for and could not be run.", failures(report))
        )
    return made


def _section(title: str, words: str | None, content: Html | None) -> Html:
    return tag("section", tag("h2", title), tag("p", words, class_="soft") if words else None, content)


def _figures(report: Report) -> Html:
    rows = [(row, _cells(report, row)) for row in report.rows]
    return join(table(HEADS, rows), _failures(report))


def _cells(report: Report, row: Row) -> tuple[str | Html, ...]:
    warm = report.row(row.region, Start.WARM)
    against = (
        times(best(row.ttft_ms), best(warm.ttft_ms) if warm else None)
        if row.start is not Start.WARM
        else NONE
    )
    tokens = best_rate(row.tokens_per_s)
    asked: str | Html = str(row.num_asked)
    if row.num_failed:
        asked = join(asked, tag("small", f" ({row.num_failed} failed)", class_="failed"))
    return (
        asked,
        _enough(row.ttft_ms.p50, MIN_SAMPLES_P50),
        spread(row.ttft_ms),
        _enough(row.ttft_ms.p99, MIN_SAMPLES_P99),
        against,
        ms(best(row.e2e_ms)),
        f"{tokens:.0f}" if tokens is not None else NONE,
        share(row.unattributed_share),
        num_bytes(row.most_remote_bytes),
    )


def _enough(value: float | None, num_needed: int) -> str | Html:
    """The percentile, or how many samples it would need."""
    return tag("small", f"n < {num_needed}") if value is None else ms(value)


def _failures(report: Report) -> Html | None:
    listed = [
        tag("li", f"{row.region}, {row.start.value}: {count} \N{MULTIPLICATION SIGN} {why}", class_="failed")
        for row in report.rows
        for why, count in row.failures.items()
    ]
    return join(tag("h3", "Failures"), tag("ul", *listed, class_="method")) if listed else None


def _method(report: Report) -> Html:
    settings = report.settings
    states = [join(tag("dt", start.value), tag("dd", MEANING[start])) for start in STARTS]
    homes = [
        f"{region} is the home region: its bytes are always in its own store, so it has no origin row."
        for region in settings.home_regions
    ]
    simulated = [f"Simulated, not measured: {words}." for words in settings.simulated]
    asked = (
        f"Asked: \N{LEFT DOUBLE QUOTATION MARK}{settings.prompt}\N{RIGHT DOUBLE QUOTATION MARK}, greedily, at most "
        f"{counted(settings.max_tokens, 'token')}; {counted(settings.num_cold, 'cold request')} for each region and "
        f"start state, {settings.num_warm} warm for each region, seed {settings.seed}."
    )
    points = (*METHOD, asked, *homes, *simulated, *_elsewhere(report), *_scaled(report))
    return join(
        tag("h3", "The start states, coldest first"),
        tag("dl", *states),
        tag("h3", "The rules"),
        tag("ul", *(tag("li", point) for point in points), class_="method"),
    )


def _elsewhere(report: Report) -> list[str]:
    """Requests that did not find what was set for them."""
    missed = [s for s in report.samples if s.found is not None and s.found is not s.wanted]
    num = counted(len(missed), "request")
    return [f"Found in another start state than was set, and counted there: {num}."] if missed else []


def _scaled(report: Report) -> list[str]:
    """Whether a wake's own parts overlapped."""
    scaled = any(s.before_first is not None and s.before_first.scaled for s in report.samples)
    return ["Where parts of a wake overlapped, they are scaled to its wall time."] if scaled else []
