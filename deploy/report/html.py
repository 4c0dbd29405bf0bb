"""The report as one page: nothing beside it is needed to read it, on a phone, on paper, offline."""

from deploy.report.arms import MEANING, STARTS, Start
from deploy.report.document import SCHEMA, Report, Row
from deploy.report.figures import distributions, sources, stacked_phases, table, warm_phases
from deploy.report.markup import Html, join, tag, text
from deploy.report.method import METHOD
from deploy.report.plots import colour
from deploy.report.stats import MIN_SAMPLES_P50, MIN_SAMPLES_P99
from deploy.report.style import STYLE
from deploy.report.waterfall import waterfalls
from deploy.report.words import NONE, best, estimates, ms, num_bytes, share, spread, times

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
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(report: Report) -> str:
    """The whole document."""
    title = f"{report.settings.model}: cold start against warm"
    head = tag(
        "head",
        Html('<meta charset="utf-8">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{text(POLICY)}">'),
        tag("title", title),
        tag("style", STYLE),
    )
    body = tag("body", tag("main", _top(report), *_sections(report), _foot(report)))
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _top(report: Report) -> Html:
    settings = report.settings
    facts = [
        f"revision {report.revision[:12]}" if report.revision else "",
        settings.made_at.replace("T", " ").replace("+00:00", " UTC"),
        f"{len(settings.regions)} regions: {', '.join(settings.regions)}",
        f"{len(report.samples)} requests in {settings.took_s:.0f} s",
        " ".join(str(settings.machine.get(name, "")) for name in ("system", "processor", "num_cpus"))
        + " CPUs",
    ]
    return tag(
        "header",
        tag("p", "Nearfield \N{MIDDLE DOT} cold start against warm", class_="kicker"),
        tag("h1", settings.model),
        tag("p", *(tag("span", fact) for fact in facts if fact), class_="meta"),
        tag("p", _headline(report), class_="lead"),
        tag("div", *(_rung(row) for start in STARTS if (row := report.nearest(start))), class_="ladder"),
        tag(
            "p",
            "Time to first token, in the region that answered soonest from each start state.",
            class_="soft",
        ),
        _badges(report),
    )


def _headline(report: Report) -> Html:
    """What the report comes to, in a sentence or two."""
    warm, cold = report.nearest(Start.WARM), report.nearest(Start.REGION)
    if cold is None or warm is None:
        return text("Time to first token by start state, region by region, phase by phase.")
    return join(
        "Woken from its region\N{RIGHT SINGLE QUOTATION MARK}s own store, the model gives its first token after ",
        tag("strong", ms(best(cold.ttft_ms))),
        ". Warm, after ",
        tag("strong", ms(best(warm.ttft_ms))),
        ". Below: what every millisecond between them was spent on, and where every byte came from.",
    )


def _rung(row: Row) -> Html:
    figure = row.ttft_ms
    number, _, unit = ms(best(figure)).partition(" ")
    what = "median" if figure.p50 is not None else "slowest"
    return tag(
        "div",
        tag("div", row.start.value, tag("small", f" in {row.region}"), class_="name"),
        tag("div", number, tag("small", f" {unit}"), class_="figure"),
        tag("p", f"{what} of {figure.n}"),
        tag("p", spread(figure)),
        class_="rung",
        style=colour(row.start.value),
    )


def _badges(report: Report) -> Html:
    made = [tag("li", f"Simulated: {words}", class_="simulated") for words in report.settings.simulated]
    made.append(_badge(report.sums, f"at most {share(report.worst_share)} of a median request unattributed"))
    inside = [row for row in report.rows if row.start is not Start.ORIGIN and row.typical]
    remote = max((row.most_remote_bytes for row in inside), default=0)
    made.append(
        _badge(remote == 0, f"{num_bytes(remote)} from another region, once the bytes were in the region")
    )
    if report.num_estimates:
        made.append(tag("li", estimates(report.num_estimates, report.eta_error)))
    failed = report.num_failed
    made.append(_badge(failed == 0, f"{failed} of {len(report.samples)} requests failed"))
    return tag("ul", *made, class_="badges")


def _badge(good: bool, words: str) -> Html:
    return tag("li", words, class_="good" if good else "bad")


def _sections(report: Report) -> list[Html]:
    return [
        _section(
            "Where the time to the first token goes",
            "The median request of each region and start state, by what its time was spent on. Every bar is one real "
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
            "The median request from the region\N{RIGHT SINGLE QUOTATION MARK}s store and the median warm "
            "one, to their last byte. Network time is drawn half on the way there, half on the way back.",
            waterfalls(report),
        ),
        _section(
            "Where the bytes came from",
            "What the median request of each cold start state read before it could run. A model that is in its region "
            "never reads from another.",
            sources(report),
        ),
        _section(
            "All figures",
            "p50, p99, interval and range are of the time to the first token.",
            _figures(report),
        ),
        _section("How it was measured", None, _method(report)),
    ]


def _section(title: str, words: str | None, content: Html) -> Html:
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
    tokens = best(row.tokens_per_s)
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
        f"{settings.max_tokens} tokens; {settings.num_cold} cold requests for each region and start state, "
        f"{settings.num_warm} warm ones for each region, seed {settings.seed}."
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
    return (
        [f"{len(missed)} requests found another start state than was set, and count under what they found."]
        if missed
        else []
    )


def _scaled(report: Report) -> list[str]:
    """Whether a wake's own parts overlapped."""
    scaled = any(s.before_first is not None and s.before_first.scaled for s in report.samples)
    return ["Where parts of a wake overlapped, they are scaled to its wall time."] if scaled else []


def _foot(report: Report) -> Html:
    return tag(
        "footer",
        "Again: ",
        tag("code", f"nearfield report {report.settings.model} --html report.html --json-file report.json"),
        f" \N{MIDDLE DOT} schema {SCHEMA} \N{MIDDLE DOT} this page loads nothing and sends nothing",
    )
