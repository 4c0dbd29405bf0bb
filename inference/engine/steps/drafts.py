"""Drafts: tokens that are computed before they are known, as far as that makes the step's tokens come sooner.

A step of a few rows takes as long as reading the weights does, and a few tokens more in it cost little. So a row's next
tokens are guessed (`engine.steps.lookup`) and computed with the one that is known; each is then chosen as it always
is, from logits that are the same as without drafts (Leviathan et al. 2023, section 2, where the draft has no
randomness), and what follows the first wrong guess is dropped. Nothing that is said depends on a guess.

How many: those that make the most tokens in the least time, by how often guesses were right (`engine.steps.odds`)
and by what steps of so many rows were measured to take (`inference.engine.steps.pace`). Plain Python.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from inference.engine.steps.odds import Guesser, Odds

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from inference.engine.steps.pace import Pace
    from inference.engine.steps.rows import Row

MOST_DRAFTS = 8
"""Of one row in one step, unless its model says fewer."""
MOST_TOKENS = 16
"""Of a step with drafts in it: more is arithmetic, and no longer the time that reading the weights takes. (Two cores, a
244 M Llama: 39 ms for one token, 41 for five, 50 for eight, 63 for 16 and 3.5 more for each one beyond.)"""
LEAST_GAIN = 1.15
"""Tokens a second against a step without drafts; what promises less is as likely a mistake of what steps take."""
LEAST_ODDS = 0.1
SIZES = (1, 2, 3, 4, 6, 8, 12, 15)
"""Drafts of a step: what lies between is no better by much, and to look at all of them takes longer."""
ROUND = 32
"""Of so many steps that could have drafts one has none and one has all, so that what either costs stays known."""
TRIED = 3
"""The step of each round that has all."""


class Drafter:
    """Chooses drafts for the rows of plain steps. `num_drafted` and `num_right` count them."""

    def __init__(self, most: int = MOST_DRAFTS) -> None:
        self._most = most
        self._odds = Odds()
        self._turn = 0
        self.num_drafted = 0
        self.num_right = 0

    def drafts(
        self,
        rows: Sequence[Row],
        pace: Pace,
        stop_ids: Callable[[str], Collection[int]],
        has_room: Callable[[Row, int], bool],
    ) -> Mapping[Row, tuple[int, ...]]:
        """The drafts of rows that have some."""
        if len(rows) >= MOST_TOKENS:
            return {}
        guesses = {row: guess for row in rows if (guess := self._guess(row, stop_ids))}
        guesses = {row: guess for row, guess in guesses.items() if has_room(row, len(guess))}
        if not guesses:
            return {}
        self._turn = (self._turn + 1) % ROUND
        if not self._turn:
            return {}
        gains = _gains(guesses)[: MOST_TOKENS - len(rows)]
        return _by_row(guesses, gains[: self._num_worth(len(rows), gains, pace)])

    def hear(self, row: Row, num_drafts: int, said: Sequence[int]) -> None:
        """A step had so many drafts of this row, and these tokens came of it."""
        self.num_drafted += num_drafts
        self.num_right += len(said) - 1
        if row.guesser is not None:
            row.guesser.hear(said)

    def _guess(self, row: Row, stop_ids: Callable[[str], Collection[int]]) -> tuple[int, ...]:
        """What may follow this row's next token; nothing that would end it, or come behind its end."""
        if row.guesser is None:
            row.guesser = Guesser(
                self._odds, (*row.order.tokens, *row.order.predicted), len(row.order.tokens)
            )
        row.guesser.look(row.tokens, self._most)
        found = row.guesser.tokens[: row.order.max_tokens - row.num_output - 1]
        if not found:
            return ()
        stops = stop_ids(row.order.id)
        first = next((place for place, token in enumerate(found) if token in stops), len(found))
        return found[:first]

    def _num_worth(self, num_rows: int, gains: Sequence[tuple[float, Row]], pace: Pace) -> int:
        """How many of the drafts, the likeliest first, give the most tokens in a second."""
        if self._turn == TRIED:
            return len(gains)
        plain_s = pace.rows_s(num_rows)
        if plain_s is None:
            return 0
        best, best_rate, expected, done = 0, LEAST_GAIN * num_rows / plain_s, float(num_rows), 0
        for size in SIZES:
            if done == len(gains):
                break
            count = min(size, len(gains))
            expected += sum(gain for gain, _ in gains[done:count])
            done = count
            took_s = pace.rows_s(num_rows + count) or plain_s
            if expected / took_s > best_rate:
                best, best_rate = count, expected / took_s
        return best


def _gains(guesses: Mapping[Row, tuple[int, ...]]) -> list[tuple[float, Row]]:
    """What each draft adds to a step's tokens on average, the most first: it counts if all before it are right."""
    found: list[tuple[float, Row]] = []
    for row, guess in guesses.items():
        each = gain = row.guesser.odds if row.guesser else 0.0
        for _ in guess:
            if gain < LEAST_ODDS:
                break
            found.append((gain, row))
            gain *= each
    found.sort(key=lambda pair: -pair[0])
    return found


def _by_row(
    guesses: Mapping[Row, tuple[int, ...]], gains: Sequence[tuple[float, Row]]
) -> Mapping[Row, tuple[int, ...]]:
    counts: dict[Row, int] = {}
    for _, row in gains:
        counts[row] = counts.get(row, 0) + 1
    return {row: guesses[row][:count] for row, count in counts.items()}
