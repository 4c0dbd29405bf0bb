"""How many requests failed in two reports, row by row, and whether chance alone made the difference. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import exp, lgamma

from deploy.report.gate.figures import Document, share_of

CHANCE = 0.05  # as the intervals of the other figures: of twenty rows that did not change one may be called changed
SLACK = 1e-7  # between two probabilities that are equal but for rounding


@dataclass(frozen=True, slots=True)
class Failures:
    """A row's failed requests of those asked, before and after; shares are None where nothing was asked.

    `probability`: of a difference at least as unlikely, if both had failed equally often.
    """

    region: str
    start: str
    failed_before: int
    asked_before: int
    failed_after: int
    asked_after: int
    share_before: float | None
    share_after: float | None
    probability: float

    @property
    def is_clear(self) -> bool:
        """Whether it is more than chance."""
        return self.probability < CHANCE

    @property
    def is_worse(self) -> bool:
        """Clearly more fail than before."""
        return self.is_clear and (self.share_after or 0.0) > (self.share_before or 0.0)


def failures(before: Document, after: Document, keys: Iterable[tuple[str, str]]) -> list[Failures]:
    """Of these rows, those of which any request failed in either report."""
    found = [_of(before, after, *key) for key in keys]
    return [each for each in found if each.failed_before or each.failed_after]


def _of(before: Document, after: Document, region: str, start: str) -> Failures:
    failed_before, asked_before = _counts(before, region, start)
    failed_after, asked_after = _counts(after, region, start)
    return Failures(
        region,
        start,
        failed_before,
        asked_before,
        failed_after,
        asked_after,
        share_of(failed_before, asked_before),
        share_of(failed_after, asked_after),
        chance((failed_before, asked_before), (failed_after, asked_after)),
    )


def _counts(document: Document, region: str, start: str) -> tuple[int, int]:
    for row in document["rows"]:
        if (row["region"], row["start"]) == (region, start):
            return row["num_failed"], row["num_asked"]
    return 0, 0


def chance(before: Sequence[int], after: Sequence[int]) -> float:
    """Fisher's exact test, two-sided, of two (failed, asked): what all tables with these sums, no likelier, come to.

    R. A. Fisher, "On the Interpretation of chi^2 from Contingency Tables" (1922).
    """
    (failed, asked), (failed_after, asked_after) = before, after
    all_failed, everything = failed + failed_after, asked + asked_after
    least, most = max(0, all_failed - asked_after), min(all_failed, asked)
    whole = _log_ways(everything, all_failed)

    def likely(num: int) -> float:
        return exp(_log_ways(asked, num) + _log_ways(asked_after, all_failed - num) - whole)

    seen = likely(failed)
    return min(1.0, sum(p for num in range(least, most + 1) if (p := likely(num)) <= seen * (1 + SLACK)))


def _log_ways(num: int, of: int) -> float:
    """The logarithm of the ways to choose `of` out of `num`."""
    return lgamma(num + 1) - lgamma(of + 1) - lgamma(num - of + 1)
