"""The report as one page: nothing beside it is needed to read it, on a phone, on paper, offline."""

from deploy.report.arms import STARTS, Start
from deploy.report.document import Report, Row
from deploy.report.more.found import middle_ttft
from deploy.report.out.values import SCHEMA
from deploy.report.page.markup import Html, join, tag, text
from deploy.report.page.plots import colour
from deploy.report.page.sections import sections
from deploy.report.page.style import STYLE
from deploy.report.words import at_hand, best, estimates, ms, num_bytes, share, spread
from wire.counted import counted

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
    body = tag("body", tag("main", _top(report), *sections(report), _foot(report)))
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _top(report: Report) -> Html:
    settings = report.settings
    facts = [
        f"revision {report.revision[:12]}" if report.revision else "",
        settings.made_at.replace("T", " ").replace("+00:00", " UTC"),
        f"{counted(len(settings.regions), 'region')}: {', '.join(settings.regions)}",
        f"{counted(len(report.samples), 'request')} in {settings.took_s:.0f} s",
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
        ". ",
        _elsewhere(report),
        "Below: what every millisecond between them was spent on, and where every byte came from.",
    )


def _elsewhere(report: Report) -> Html | None:
    """The counterfactual in a sentence, if it was measured."""
    split = report.more.split
    near, far = (
        (middle_ttft(side.of(Start.REGION)) for side in (split.together, split.apart))
        if split
        else (None, None)
    )
    if split is None or near is None or far is None:
        return None
    return join(
        "With its store ",
        tag("strong", f"{split.rtt_ms:g} ms away"),
        " (simulated) a cold start takes ",
        tag("strong", ms(far)),
        " instead of ",
        tag("strong", ms(near)),
        ". ",
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
    if report.at_hand:
        made.append(tag("li", at_hand(report.at_hand)))
    if report.num_estimates:
        made.append(tag("li", estimates(report.num_estimates, report.eta_error)))
    failed = report.num_failed
    made.append(_badge(failed == 0, f"{failed} of {counted(report.num_asked, 'request')} failed"))
    return tag("ul", *made, class_="badges")


def _badge(good: bool, words: str) -> Html:
    return tag("li", words, class_="good" if good else "bad")


def _foot(report: Report) -> Html:
    return tag(
        "footer",
        "Again: ",
        tag("code", f"nearfield report {report.settings.model} --html report.html --json-file report.json"),
        f" \N{MIDDLE DOT} schema {SCHEMA} \N{MIDDLE DOT} this page loads nothing and sends nothing",
    )
