"""The counterfactual's section: both designs' cold starts as bars, the bill as a table, the control beside it."""

from deploy.report.arms import Start
from deploy.report.more.found import Side, Split
from deploy.report.more.money import Bill, Comparison, comparisons
from deploy.report.more.terms import Terms
from deploy.report.page.figures import families_legend, stack
from deploy.report.page.further import middle_sample
from deploy.report.page.markup import Html, coded, join, tag
from deploy.report.page.plots import Bar, bars
from deploy.report.page.scale import Linear
from deploy.report.page.tables import plain_table
from deploy.report.stats import summary
from deploy.report.words import NONE, best, best_rate, cold_time, ms, num_bytes, rate_spread, tick

NAMES = {"together": "beside it", "apart": "far away"}


def counterfactual(split: Split, terms: Terms) -> Html:
    """Everything about it."""
    return join(_bars(split), _bill(split, terms), _control(split), _sources(split, terms))


def _bars(split: Split) -> Html:
    sides = (split.together, split.apart)
    drawn = [(side, sample) for side in sides if (sample := middle_sample(side.of(Start.REGION)))]
    axis = Linear(max((sample.ttft_ms or 0.0 for _, sample in drawn), default=0.0))
    rows = [Bar(NAMES[side.name], stack(sample), ms(sample.ttft_ms)) for side, sample in drawn]
    num = len(split.apart.of(Start.REGION))
    return join(
        tag("h3", f"A cold start by where the store is (the middle one of {num})"),
        families_legend([sample for _, sample in drawn]),
        bars(rows, axis, [tick(t) for t in axis.ticks()]),
    )


def _bill(split: Split, terms: Terms) -> Html | None:
    found = comparisons(split, terms)
    if not found:
        return tag("p", "One of the two designs gave no answer.", class_="failed")
    heads = (
        "weights",
        "",
        "store",
        "first token after",
        "bytes across regions",
        f"{terms.scale.num_cold_starts:,} cold starts",
    )
    rows = [_bill_row(each, bill, terms) for each in found for bill in (each.together, each.apart)]
    return join(tag("h3", "What a cold start costs"), plain_table(heads, rows, 3))


def _bill_row(each: Comparison, bill: Bill, terms: Terms) -> tuple[str | Html, ...]:
    first = bill is each.together
    return (
        tag("b", each.weights) if first else "",
        tag("small", "measured" if bill.is_measured else "computed") if first else "",
        NAMES[bill.what],
        cold_time(bill.cold_s),
        num_bytes(bill.remote_bytes),
        money(bill.cost, terms.currency),
    )


def money(amount: float, currency: str) -> str:
    """An amount with the digits that it deserves."""
    return f"{amount:,.0f} {currency}" if amount >= 100 else f"{amount:,.2f} {currency}"


def _control(split: Split) -> Html:
    rows = [(NAMES[side.name], *_rates(side)) for side in (split.together, split.apart)]
    words = "Warm, it does not matter where the store is: no byte of the weights is read again. That is the control."
    return join(
        tag("h3", "The control: tokens a second, warm"),
        tag("p", words, class_="soft"),
        plain_table(("store", "n", "tokens/s", "interval or range", "first token"), rows),
    )


def _rates(side: Side) -> tuple[str, str, str, str]:
    warm = side.of(Start.WARM)
    rates = summary([sample.tokens_per_s for sample in warm if sample.tokens_per_s is not None])
    first = summary([sample.ttft_ms for sample in warm if sample.ttft_ms is not None])
    middle = best_rate(rates)
    return (
        str(len(warm)),
        f"{middle:.1f}" if middle is not None else NONE,
        rate_spread(rates),
        ms(best(first)),
    )


def _sources(split: Split, terms: Terms) -> Html:
    link = (
        f"The distance is simulated by our own relay: {split.rtt_ms:g} ms there and back, at most "
        f"{num_bytes(split.bytes_per_s)} a second, no loss. Computed rows are the measured start plus the further "
        f"bytes at that rate, or at the {num_bytes(split.near_bytes_per_s)} a second that this region measured of its "
        "own store."
    )
    listed = [tag("li", coded(words)) for words in (link, *terms.sources)]
    return join(tag("h3", "Where these figures come from"), tag("ul", *listed, class_="method"))
