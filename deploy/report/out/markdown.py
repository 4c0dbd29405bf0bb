"""The report, and a comparison of two, as Markdown for a pull request. Pure."""

from collections.abc import Iterable, Sequence

from deploy.report.arms import Start
from deploy.report.document import Report
from deploy.report.gate.diff import FIGURES, Change
from deploy.report.gate.failures import Failures
from deploy.report.gate.verdict import Verdict
from deploy.report.more.money import comparisons
from deploy.report.words import NONE, ONE_RUN, at_hand, best, best_rate, ms, num_bytes, share, spread, times
from wire.counted import counted

FAILED = "failed requests"
SPECIAL = str.maketrans({char: f"\\{char}" for char in "\\`*_[]<>|#~"} | {"\n": " ", "\r": " "})


def plain(words: str) -> str:
    """Words from elsewhere, which Markdown shall show as they are."""
    return words.translate(SPECIAL)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], num_left: int = 2) -> str:
    marks = ["---" if i < num_left else "--:" for i in range(len(heads))]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (heads, marks, *rows))


def markdown(report: Report, verdicts: Sequence[Verdict] = ()) -> str:
    """One table, what was checked, what was simulated, and the gate's verdicts."""
    parts = [
        f"### Cold start against warm: {plain(report.settings.model)}\n",
        _summary(report),
        _rows(report),
    ]
    parts += [_split(report)] if report.more.split else []
    parts += [gate(verdicts)] if verdicts else []
    return "\n".join(parts)


def _summary(report: Report) -> str:
    said = [f"**Simulated**: {plain(words)}." for words in report.settings.simulated]
    inside = max((row.most_remote_bytes for row in report.rows if row.start is not Start.ORIGIN), default=0)
    said.append(f"{num_bytes(inside)} read from another region once the bytes were in the region.")
    said += [f"{plain(at_hand(report.at_hand))}."] if report.at_hand else []
    said.append(f"At most {share(report.worst_share)} of a median request unattributed.")
    said.append(f"{report.num_failed} of {counted(report.num_asked, 'request')} failed.")
    said.append(f"Seed {report.settings.seed}.")
    return " ".join(said) + "\n"


def _rows(report: Report) -> str:
    heads = (
        "region",
        "start",
        "n",
        "p50 to first token",
        "interval or range",
        "p99",
        "against warm",
        "tokens/s",
        "remote",
    )
    made, before = [], ""
    for row in report.rows:
        warm = report.row(row.region, Start.WARM)
        cold = row.start is not Start.WARM
        tokens = best_rate(row.tokens_per_s)
        made.append(
            (
                plain(row.region) if row.region != before else "",
                row.start.value,
                f"{row.num_asked}" + (f" ({row.num_failed} failed)" if row.num_failed else ""),
                ms(row.ttft_ms.p50),
                spread(row.ttft_ms),
                ms(row.ttft_ms.p99),
                times(best(row.ttft_ms), best(warm.ttft_ms)) if cold and warm else NONE,
                f"{tokens:.0f}" if tokens is not None else NONE,
                num_bytes(row.most_remote_bytes),
            )
        )
        before = row.region
    return _table(heads, made)


def _split(report: Report) -> str:
    split, terms = report.more.split, report.terms
    if split is None or terms is None:
        return ""
    heads = ("weights", "", "store beside", "store elsewhere (simulated)", "later by")
    rows = [
        (
            plain(each.weights),
            "measured" if each.together.is_measured else "computed",
            ms(each.together.cold_s * 1000),
            ms(each.apart.cold_s * 1000),
            ms(each.longer_s * 1000),
        )
        for each in comparisons(split, terms)
    ]
    return f"The store {split.rtt_ms:g} ms away, simulated:\n\n{_table(heads, rows)}"


def comparison(
    changes: Sequence[Change], failed: Sequence[Failures], verdicts: Sequence[Verdict] = ()
) -> str:
    """What changed from one report to another."""
    names = dict(FIGURES)
    rows = [
        (
            plain(each.region),
            each.start,
            names[each.figure],
            said(each, each.before),
            said(each, each.after),
            verdict(each),
        )
        for each in changes
    ]
    rows += [(plain(each.region), each.start, *failed_words(each)) for each in failed]
    heads = ("region", "start", "figure", "before", "after", "change (95 % interval)")
    parts = ["### Cold start against warm: before and after\n", _table(heads, rows, 3)]
    clear = [*(each.is_clear for each in changes), *(each.is_clear for each in failed)]
    parts += [ONE_RUN + "\n"] if any(clear) else []
    return "\n".join([*parts, gate(verdicts)] if verdicts else parts)


def said(change: Change, value: float | None) -> str:
    """One side of a change in its unit."""
    if value is None:
        return NONE
    return f"{value:.0f}/s" if change.figure == "tokens_per_s" else ms(value)


def verdict(change: Change) -> str:
    """The change in words: a share and its interval, or why there is none."""
    if change.ratio is None or change.interval is None:
        return f"n = {change.num_before}, {change.num_after}: too few"
    low, high = (f"{end - 1:+.0%}" for end in change.interval)
    clear = ("worse" if change.is_worse else "better") if change.is_clear else "within noise"
    return f"{change.ratio - 1:+.0%} ({low} to {high}), {clear}"


def failed_words(row: Failures) -> tuple[str, str, str, str]:
    """Failed requests of a row as the cells of a comparison, its figure first."""
    before, after = (
        NONE if share is None else f"{num} of {asked} ({share:.1%})"
        for num, asked, share in (
            (row.failed_before, row.asked_before, row.share_before),
            (row.failed_after, row.asked_after, row.share_after),
        )
    )
    return FAILED, before, after, _failed_verdict(row)


def _failed_verdict(row: Failures) -> str:
    """The difference of the shares in points, and whether it is more than chance."""
    if row.share_before is None or row.share_after is None:
        return "in one report only"
    clear = ("worse" if row.is_worse else "better") if row.is_clear else "within noise"
    points = 100 * (row.share_after - row.share_before)
    return f"{points:+.1f} points (chance {row.probability:.1%}), {clear}"


def gate(verdicts: Sequence[Verdict]) -> str:
    """The conditions, one a line."""
    lines = (f"- {'**failed**' if each.failed else 'passed'}: {plain(each.words)}\n" for each in verdicts)
    return "Must not be so:\n\n" + "".join(lines)
