"""How often a guess of what comes next is right, by how many tokens stood before. Plain Python.

Every guess is held to what the model then says, computed with it or not: to know whether guesses pay costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from inference.engine.steps.lookup import LONGEST, Lookup

if TYPE_CHECKING:
    from collections.abc import Sequence

KEPT = 0.9
"""Of what was seen, at each next guess: the last ten count."""
KEPT_OF_ALL = 0.99
OTHERS_COUNT = 3.0
"""What other requests have seen counts as so many guesses of a request's own."""
FIRST = 0.5


class Odds:
    """Right ones and all of late, by matched tokens; begins with what `others` say, if there are any."""

    __slots__ = ("_kept", "_others", "_right", "_seen")

    def __init__(self, others: Odds | None = None) -> None:
        self._others = others
        self._kept = KEPT if others else KEPT_OF_ALL
        self._right = [0.0] * (LONGEST + 1)
        self._seen = [0.0] * (LONGEST + 1)

    def of(self, length: int) -> float:
        """The share of guesses behind `length` matched tokens that are right."""
        before = self._others.of(length) if self._others else FIRST
        return (self._right[length] + OTHERS_COUNT * before) / (self._seen[length] + OTHERS_COUNT)

    def note(self, length: int, *, is_right: bool) -> None:
        """One guess came true, or not."""
        self._right[length] = self._right[length] * self._kept + is_right
        self._seen[length] = self._seen[length] * self._kept + 1.0
        if self._others:
            self._others.note(length, is_right=is_right)


class Guesser:
    """One request's guesses: `tokens` is what may come next, `odds` how likely each is if all before it are right."""

    __slots__ = ("_length", "_lookup", "_num_seen", "_odds", "tokens")

    def __init__(self, others: Odds, before: Sequence[int] = (), num_seen: int = 0) -> None:
        """`before` stands for the text's first `num_seen` tokens: a prompt, and what was foretold of its answer."""
        self._odds = Odds(others)
        self._lookup = Lookup(before)
        self._num_seen = num_seen
        self._length = 0
        self.tokens: tuple[int, ...] = ()

    @property
    def odds(self) -> float:
        """Of the first to be right; of the next, if the one before it was."""
        return self._odds.of(self._length)

    def look(self, text: Sequence[int], most: int) -> None:
        """Guess what comes after `text`, which goes on from the one before."""
        self._lookup.extend(text[self._num_seen :])
        self._num_seen = len(text)
        self._length, self.tokens = self._lookup.guess(most)

    def hear(self, said: Sequence[int]) -> None:
        """These came, as far as they were chosen behind what was guessed rightly."""
        for guess, token in zip(self.tokens, said, strict=False):
            self._odds.note(self._length, is_right=guess == token)
        self.tokens = ()
