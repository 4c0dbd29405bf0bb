"""What each order of an engine cost: tokens computed, tokens sampled, and its share of the steps' time. Plain Python.

A step's time is shared out by tokens computed, in whole microseconds: the shares of a step sum to the step, and what
is left of nanoseconds goes to the next. Rows are words of one piece of memory, so that booking a row is three
additions, and publishing all of them (`own_log`) is one copy.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_ROWS: Final = 8_192
"""Orders that have computed something and have not ended: the rows of one pass of short texts are 4,096 at most."""
ID_BYTES: Final = 16
"""Of an order's id; the node numbers them."""
HEAD_WORDS: Final = 4  # rows in use, microseconds of all steps, steps, nothing
ROW_WORDS: Final = 5  # two of the id, computed, sampled, microseconds
BANK_WORDS: Final = HEAD_WORDS + MAX_ROWS * ROW_WORDS
WORD_BYTES: Final = 8
NS_PER_US: Final = 1_000

Part = tuple[str, int, int]
"""(order's id, tokens computed, tokens sampled) of one row of a step."""


@dataclass(frozen=True, slots=True)
class Account:
    """One order, from its first step to its last."""

    computed: int = 0
    sampled: int = 0
    us: int = 0


def cost_fields(account: Account) -> dict[str, int]:
    """An account as the fields of an engine's message."""
    return {"computed_tokens": account.computed, "sampled_tokens": account.sampled, "device_us": account.us}


def cost_of(message: Mapping[str, Any]) -> Account:
    """The account in an engine's last message of an order."""
    names = ("computed_tokens", "sampled_tokens", "device_us")
    return Account(*(int(message.get(name) or 0) for name in names))


class Book(Protocol):
    """Where an engine's figures outlive it (`own_log.OwnLog`)."""

    def publish(self, image: memoryview) -> None:
        """Keep the rows as they are now."""

    def ended(self, order_id: str, account: Account) -> None:
        """Keep an order's last figures."""


class Meter:
    """Books steps and closes orders; with a `book` what it knows outlives the process."""

    def __init__(self, book: Book | None = None) -> None:
        self._book = book
        self._words = array("q", bytes(BANK_WORDS * WORD_BYTES))
        self._image = memoryview(self._words).cast("B")
        self._rows: dict[str, int] = {}
        self._free = list(range(HEAD_WORDS + (MAX_ROWS - 1) * ROW_WORDS, 0, -ROW_WORDS))
        self._end = HEAD_WORDS
        self._left_ns = 0

    @property
    def total_us(self) -> int:
        """Of all steps."""
        return self._words[1]

    def step(self, parts: Iterable[Part], took_ns: int) -> None:
        """A step was computed, its rows and its wall time."""
        parts = list(parts)
        whole = sum([part[1] for part in parts])
        if not whole:
            return
        us, self._left_ns = divmod(took_ns + self._left_ns, NS_PER_US)
        words, rows, weight, before = self._words, self._rows, 0, 0
        for order_id, num_computed, num_sampled in parts:
            at = rows.get(order_id) or self._seat(order_id)
            weight += num_computed
            upto = us * weight // whole
            words[at + 2] += num_computed
            words[at + 3] += num_sampled
            words[at + 4] += upto - before
            before = upto
        words[1] += us
        words[2] += 1
        if self._book is not None:
            self._book.publish(self._image[: self._end * WORD_BYTES])

    def close(self, order_id: str) -> Account:
        """An order has ended, and this is what it cost; one that computed nothing cost nothing."""
        at = self._rows.pop(order_id, None)
        if at is None:
            return Account()
        account = Account(*self._words[at + 2 : at + ROW_WORDS])
        if self._book is not None:
            self._book.ended(order_id, account)
        self._words[at : at + ROW_WORDS] = array("q", (0,) * ROW_WORDS)
        self._free.append(at)
        return account

    def _seat(self, order_id: str) -> int:
        at = self._rows[order_id] = self._free.pop()
        start = at * WORD_BYTES
        self._image[start : start + ID_BYTES] = order_id.encode()[:ID_BYTES].ljust(ID_BYTES, b"\0")
        self._end = max(self._end, at + ROW_WORDS)
        self._words[0] = (self._end - HEAD_WORDS) // ROW_WORDS
        return at
