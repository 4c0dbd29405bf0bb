"""What a request's own text says comes next: the tokens that followed the last ones where they stood before.

"Prompt lookup" (Saxena 2023, https://github.com/apoorvumang/prompt-lookup-decoding): an answer repeats names, code and
sentences of its prompt and of itself. Plain Python. The text is kept as bytes, four for each token, since a search of
those runs at the speed of memory: 2 us for a thousand tokens.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

LONGEST = 3
"""Last tokens that are looked for together; one alone says less of what follows (`inference.engine.steps.odds`)."""
WINDOW_TOKENS = 8192
"""How far back they are looked for: some 20 us a search."""
TOKEN_BYTES = 4
MOST_BETWEEN = 8
"""Places where the bytes are alike but are parts of two tokens each; a text of these has no guess."""


class Lookup:
    """The last tokens of one text, searched backwards."""

    __slots__ = ("_text",)

    def __init__(self, tokens: Sequence[int]) -> None:
        self._text = bytearray()
        self.extend(tokens[-WINDOW_TOKENS:])

    def extend(self, tokens: Sequence[int]) -> None:
        """The text goes on."""
        self._text += array("I", tokens).tobytes()
        if len(self._text) > 2 * WINDOW_TOKENS * TOKEN_BYTES:
            del self._text[: -WINDOW_TOKENS * TOKEN_BYTES]

    def guess(self, most: int) -> tuple[int, tuple[int, ...]]:
        """How many of the last tokens stood before, `LONGEST` at most, and up to `most` that followed them there.

        What followed may reach into the last tokens themselves: then it goes round, as what repeats does.
        """
        length, after = 0, len(self._text)
        for count in range(1, LONGEST + 1):
            found = self._before(count, after)
            if found is None:
                break
            length, after = count, found
        return (length, self._following(after, most)) if length else (0, ())

    def _before(self, count: int, end: int) -> int | None:
        """The end of the last place before the one that ends at `end` where the last `count` tokens stand.

        A place that ends at `end` counts, if that is not the end of the text.
        """
        tail = self._text[-count * TOKEN_BYTES :]
        if len(tail) < count * TOKEN_BYTES:
            return None
        last = min(end, len(self._text) - TOKEN_BYTES)
        for _ in range(MOST_BETWEEN):
            at = self._text.rfind(tail, 0, last)
            if at < 0:
                return None
            if not at % TOKEN_BYTES:
                return at + len(tail)
            last = at + len(tail) - 1
        return None

    def _following(self, start: int, most: int) -> tuple[int, ...]:
        end = len(self._text)
        found = array("I", bytes(self._text[start : start + most * TOKEN_BYTES])).tolist()
        period = (end - start) // TOKEN_BYTES
        return tuple(found[place % period] for place in range(most)) if period < most else tuple(found)
