"""How a tokenizer joins two texts into one row: what it puts before, between and behind them.

Seen once on a short pair and then laid around the ids of any two texts: the longer of the two is tokenized once,
however many others it is joined with, and is cut without touching the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

Parts = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Numbers of the tokens before, between and behind."""


@dataclass(frozen=True, slots=True)
class Pairing:
    """The tokenizer's own tokens around two texts, their segments, and the two texts' segments."""

    marks: Parts
    mark_segments: Parts
    text_segments: tuple[int, int]

    @classmethod
    def seen(cls, ids: Sequence[int], segments: Sequence[int], texts: Sequence[int | None]) -> Pairing | None:
        """From one joined pair; `texts` says of each token which text it is of (None: the tokenizer's own).

        None if the pair is not one whole text and then the other.
        """
        first, second = _run(texts, 0), _run(texts, 1)
        if first is None or second is None or first.stop > second.start:
            return None
        text_segments = segments[first.start], segments[second.start]
        return cls(_around(ids, first, second), _around(segments, first, second), text_segments)

    @property
    def num_marks(self) -> int:
        """Tokens of the tokenizer's own in each pair."""
        return sum(map(len, self.marks))

    @property
    def has_segments(self) -> bool:
        """Whether the tokenizer tells the two texts apart by segments."""
        return any(map(any, self.mark_segments)) or any(self.text_segments)

    def joined(self, first: Sequence[int], second: Sequence[int]) -> list[int]:
        """The ids of a pair."""
        before, between, behind = self.marks
        return [*before, *first, *between, *second, *behind]

    def segments(self, num_first: int, num_second: int) -> list[int]:
        """The segments of a pair of texts with so many tokens."""
        before, between, behind = self.mark_segments
        first, second = self.text_segments
        return [*before, *[first] * num_first, *between, *[second] * num_second, *behind]


def _run(texts: Sequence[int | None], number: int) -> slice | None:
    """Where the tokens of a text are, if they are side by side."""
    places = [place for place, text in enumerate(texts) if text == number]
    if not places or places[-1] - places[0] >= len(places):
        return None
    return slice(places[0], places[-1] + 1)


def _around(values: Sequence[int], first: slice, second: slice) -> Parts:
    return (
        tuple(values[: first.start]),
        tuple(values[first.stop : second.start]),
        tuple(values[second.stop :]),
    )
