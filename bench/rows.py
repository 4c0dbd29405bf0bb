"""The shape of every benchmark's outcome: rows of ours against a peer, with the issue's target."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

Better = Literal["lower", "higher"]


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison. `ratio` above 1 means ours is better; `holds` says whether it reaches `target`.

    `target` None: the row is there for the reader (a limit, a part of another row) and is never broken.
    """

    what: str
    ours: float
    peer: float
    unit: str
    ratio: float
    target: float | None
    holds: bool


def compare(
    what: str, ours: float, peer: float, unit: str, *, better: Better, target: float | None = None
) -> Row:
    """A row of two measured figures in the same unit; `better` says which way the unit points.

    A figure of 0 where lower is better means "not measurable": the ratio is then taken as infinite-like 1e9.
    """
    above, below = (peer, ours) if better == "lower" else (ours, peer)
    ratio = above / below if below > 0 else 1e9
    return Row(what, ours, peer, unit, ratio, target, target is None or ratio >= target)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one benchmark found. `notes` say what a reader must know to judge the figures."""

    bench: str
    machine: dict[str, str | int | float]
    rows: Sequence[Row]
    notes: Sequence[str] = field(default=())

    @property
    def holds(self) -> bool:
        """Whether every row with a target reaches it."""
        return all(row.holds for row in self.rows)

    def to_json(self) -> str:
        """One line of JSON: {"bench", "machine", "rows", "notes"}, figures to four digits."""
        rows = [{name: _rounded(value) for name, value in asdict(row).items()} for row in self.rows]
        value = {"bench": self.bench, "machine": self.machine, "rows": rows, "notes": list(self.notes)}
        return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _rounded(value: object) -> object:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def middle(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Of rounds in turns, ours and the peer's, the one whose quotient is the median: what a minute of a slow machine
    does to both is no difference between them. `pairs` is not empty.
    """
    return sorted(pairs, key=lambda pair: pair[0] / pair[1])[len(pairs) // 2]


def quantile(samples: Sequence[float], share: float) -> float:
    """The sample below which `share` of them lie (nearest rank). `samples` is not empty."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
