"""Figures in the text format that Prometheus reads (0.0.4): counters, gauges and histograms.

Whoever composes a role makes one `Metrics` and hands it to those who count; nothing is global, and everything is for
one thread. Names follow https://prometheus.io/docs/practices/naming/: base units, `_total` for counters.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, islice
from typing import Final, TypeVar

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
MAX_SERIES: Final = (
    512  # of one figure: label values are ours, and this bounds what a fault of ours could make
)
OTHER: Final = "other"  # the label values of what is beyond that
SECONDS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(
        1.0,
        2.5,
        5.0,
        10.0,
        30.0,
        60.0,
        120.0,
        300.0,
        600.0,
        1200.0,
        2560.0,
    ),  # a large model's cold start from afar
)
_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})

Labels = tuple[str, ...]
Reading = Iterable[tuple[Labels, float]]


class Counter:
    """What only grows."""

    def __init__(self, name: str, labels: Labels) -> None:
        self._name, self.labels = name, labels
        self._values: dict[Labels, float] = {}

    def add(self, amount: float, *labels: str) -> None:
        """Count `amount` more under these label values, in the order of their names."""
        key = bounded(labels, self._values)
        self._values[key] = self._values.get(key, 0.0) + amount

    def lines(self) -> list[str]:
        """One line a series."""
        return [sample(self._name, self.labels, key, value) for key, value in self._values.items()]


class Gauge:
    """What is read when it is asked for."""

    def __init__(self, name: str, labels: Labels, read: Callable[[], Reading]) -> None:
        self._name, self.labels, self._read = name, labels, read

    def lines(self) -> list[str]:
        """One line a series; what is beyond MAX_SERIES is left out, since nothing says how to add it up."""
        found = islice(self._read(), MAX_SERIES)
        return [sample(self._name, self.labels, key, value) for key, value in found]


class Total(Gauge):
    """What only grows and is counted elsewhere: read when it is asked for."""


class Series:
    """The counts between a histogram's bounds, and the sum of all values."""

    __slots__ = ("counts", "total")

    def __init__(self, num_counts: int) -> None:
        self.counts = [0] * num_counts
        self.total = 0.0


class Histogram:
    """How often values fell under each bound.

    Attributes:
        on_look: called before it is read, where somebody observes later than it happens.
    """

    def __init__(self, name: str, labels: Labels, bounds: Sequence[float]) -> None:
        self._name, self.labels, self._bounds = name, labels, tuple(bounds)
        self._series: dict[Labels, Series] = {}
        self.on_look: Callable[[], None] | None = None

    def observe(self, value: float, *labels: str) -> None:
        """Count one value under these label values."""
        series = self._series.get(labels) or self._series_of(labels)
        series.counts[bisect_left(self._bounds, value)] += 1
        series.total += value

    def observe_all(self, values: Sequence[float], *labels: str) -> None:
        """Count each of them under these label values."""
        series = self._series.get(labels) or self._series_of(labels)
        ascending, num_under = sorted(values), 0
        for at, bound in enumerate(self._bounds):  # most of many values are under one of the first
            until = bisect_right(ascending, bound, num_under)
            series.counts[at] += until - num_under
            if until == len(ascending):
                break
            num_under = until
        else:
            series.counts[-1] += len(ascending) - num_under
        series.total += sum(values)

    def lines(self) -> list[str]:
        """The buckets of each series, counted up, then its sum and count."""
        if self.on_look is not None:
            self.on_look()
        return [line for key, series in self._series.items() for line in self._lines(key, series)]

    def _series_of(self, labels: Labels) -> "Series":
        key = bounded(labels, self._series)
        return self._series.setdefault(key, Series(len(self._bounds) + 1))

    def _lines(self, key: Labels, series: "Series") -> list[str]:
        bounds = [*(f"{bound:g}" for bound in self._bounds), "+Inf"]
        reached = list(accumulate(series.counts))
        names = (*self.labels, "le")
        buckets = [
            sample(f"{self._name}_bucket", names, (*key, bound), count)
            for bound, count in zip(bounds, reached, strict=True)
        ]
        total = sample(f"{self._name}_sum", self.labels, key, series.total)
        return [*buckets, total, sample(f"{self._name}_count", self.labels, key, reached[-1])]


Figure = Counter | Gauge | Histogram
T = TypeVar("T", Counter, Gauge, Total, Histogram)
_KINDS: Final = {Counter: "counter", Gauge: "gauge", Total: "counter", Histogram: "histogram"}


class Metrics:
    """All figures of one role; `page` is what its /metrics says."""

    def __init__(self) -> None:
        self._figures: dict[str, tuple[str, Figure]] = {}

    def counter(self, name: str, about: str, *labels: str) -> Counter:
        """A new counter."""
        return self._add(name, about, Counter(name, labels))

    def gauge(self, name: str, about: str, read: Callable[[], Reading], *labels: str) -> Gauge:
        """A new gauge; `read` gives (label values, value) whenever it is asked for."""
        return self._add(name, about, Gauge(name, labels, read))

    def total(self, name: str, about: str, read: Callable[[], Reading], *labels: str) -> Total:
        """A new counter that is read; `read` gives (label values, value), and no value ever falls."""
        return self._add(name, about, Total(name, labels, read))

    def histogram(self, name: str, about: str, *labels: str, bounds: Sequence[float] = SECONDS) -> Histogram:
        """A new histogram; `bounds` ascend."""
        return self._add(name, about, Histogram(name, labels, bounds))

    def listed(self) -> Iterator[tuple[str, str, Labels, str]]:
        """(name, kind, labels, what it says) of each figure, whether it has a value yet or not."""
        for name, (about, figure) in self._figures.items():
            yield name, _KINDS[type(figure)], figure.labels, about

    def page(self) -> bytes:
        """Everything, as text."""
        lines = [line for name in self._figures for line in self._lines(name)]
        return "".join(f"{line}\n" for line in lines).encode()

    def _add(self, name: str, about: str, figure: T) -> T:
        if name in self._figures:
            raise ValueError(f"there is a figure {name} already")
        self._figures[name] = about, figure
        return figure

    def _lines(self, name: str) -> list[str]:
        about, figure = self._figures[name]
        return [f"# HELP {name} {about}", f"# TYPE {name} {_KINDS[type(figure)]}", *figure.lines()]


def one(value: float | None) -> Reading:
    """The reading of a gauge without labels; none if there is no value yet."""
    return () if value is None else (((), value),)


def bounded(labels: Labels, known: Mapping[Labels, object]) -> Labels:
    """The labels under which to count: their own, or OTHER where there are too many."""
    return labels if labels in known or len(known) < MAX_SERIES else (OTHER,) * len(labels)


def sample(name: str, names: Labels, values: Labels, value: float) -> str:
    """One line: `name{label="value"} 1.5`."""
    pairs = ",".join(f'{key}="{said.translate(_ESCAPES)}"' for key, said in zip(names, values, strict=True))
    return f"{name}{{{pairs}}} {value:.10g}" if pairs else f"{name} {value:.10g}"
