"""Two reports side by side: each row's change with its interval, and whether chance alone could have made it. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from deploy.report.gate.figures import Document, Row
from deploy.report.stats import MIN_SAMPLES_P50, quantile, ratio_interval

FIGURES = (("ttft_ms", "time to first token"), ("e2e_ms", "end to end"), ("tokens_per_s", "tokens/s"))
HIGHER_IS_BETTER = frozenset({"tokens_per_s"})


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of one row, before and after: medians of what was answered, where both have enough.

    `ratio` is after over before with its 95 % bootstrap `interval`; None where there are too few.
    """

    region: str
    start: str
    figure: str
    num_before: int
    num_after: int
    before: float | None
    after: float | None
    ratio: float | None
    interval: tuple[float, float] | None

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves "no change" out."""
        return self.interval is not None and not self.interval[0] <= 1 <= self.interval[1]

    @property
    def is_worse(self) -> bool:
        """Clearly slower, or clearly fewer tokens a second."""
        return (
            self.is_clear and self.ratio is not None and (self.ratio > 1) != (self.figure in HIGHER_IS_BETTER)
        )


def changes(before: Document, after: Document) -> list[Change]:
    """Of every row that either report has, in the order of the later one."""
    return [_change(before, after, *key, figure) for key in keys(before, after) for figure, _ in FIGURES]


def keys(before: Document, after: Document) -> Iterator[tuple[str, str]]:
    """(region, start state) of the rows, in the order of the later report."""
    found = [(row["region"], row["start"]) for document in (after, before) for row in document["rows"]]
    yield from dict.fromkeys(found)


def _change(before: Document, after: Document, region: str, start: str, figure: str) -> Change:
    early, late = (_values(document, region, start, figure) for document in (before, after))
    enough = min(len(early), len(late)) >= MIN_SAMPLES_P50
    first, last = (quantile(values, 0.5) if values else None for values in (early, late))
    comparable = enough and first is not None and last is not None and first > 0
    return Change(
        region,
        start,
        figure,
        len(early),
        len(late),
        first if enough else _extreme(early, figure),
        last if enough else _extreme(late, figure),
        last / first if comparable and first and last is not None else None,
        ratio_interval(early, late, seed=0) if comparable and early[0] > 0 else None,
    )


def _extreme(values: list[float], figure: str) -> float | None:
    """The worst of too few."""
    return (values[0] if figure in HIGHER_IS_BETTER else values[-1]) if values else None


def _values(document: Document, region: str, start: str, figure: str) -> list[float]:
    """A row's measured values, ascending."""
    return sorted(
        request[figure]
        for request in document["requests"]
        if request["region"] == region and _found(request) == start and _is_number(request.get(figure))
    )


def _found(request: Row) -> str:
    return str(request.get("found") or request.get("wanted"))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
