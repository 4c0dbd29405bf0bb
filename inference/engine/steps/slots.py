"""KV slots: how many fit, which one is free, and which lie side by side. Plain Python, no torch.

A slot is one request's room for `max_len` tokens in every layer: room as addresses, while the memory of all of them
together is bounded (`plan_room`), so that many short requests run beside each other where few long ones could. The
lowest free slot is taken first, so that the busy ones stay packed at the front and neighbours can be attended to as
one view (`side_by_side`).
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from inference.engine.steps.pages import PAGE_TOKENS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

MIN_SLOTS = 4
"""Fewer requests together is not much of a server: a long context is cut before it comes to that."""
MIN_CONTEXT_TOKENS = 4096
"""Below this the context is not cut for more slots: a chat does not fit any more."""
PAGES_SHARE = 0.2
"""Of the budget, for kept prefixes: a quarter of what the slots get holds the system prompts and the last turns
of a few chats, and costs a fifth of the slots only where memory is what bounds them."""
PADDING_SHARE = 0.25
"""Attending to a quarter more positions than there are costs less than one more attention call."""
PADDING_TOKENS = 128
"""For short rows the share is too strict: one call costs as much as about this many positions (measured:
17 us a call, 0.1 us a position at 4 KV heads of 64)."""


@dataclass(frozen=True, slots=True)
class SlotPlan:
    """The room an engine makes: `num_slots` requests of `max_len` tokens, prompt and answer together."""

    num_slots: int
    max_len: int
    kv_bytes: int
    num_pages: int = 0
    """Pages beside the slots, for prefixes that are kept."""
    num_blocks: int = 0
    """Blocks of `PAGE_TOKENS` that slots share (`inference.engine.gpu.blocks`); none where each has all of its own."""

    @property
    def lends(self) -> bool:
        """Whether the slots together have less memory than each of them may need."""
        return 0 < self.num_blocks * PAGE_TOKENS < self.num_slots * self.max_len


def plan_room(*, max_slots: int, max_len: int, kv_bytes_per_token: int, budget_bytes: int) -> SlotPlan:
    """`max_slots` slots that share blocks, and pages for kept prefixes: `PAGES_SHARE` of the budget, and what is left.

    As many blocks as whole contexts fit. Never more pages than blocks: they are to serve the next requests, not to be
    an archive.

    Raises:
        ValueError: see `plan_slots`.
    """
    page_bytes = PAGE_TOKENS * kv_bytes_per_token
    reserved = int(budget_bytes * PAGES_SHARE)
    slots = plan_slots(
        max_slots=max_slots,
        max_len=max_len,
        kv_bytes_per_token=kv_bytes_per_token,
        budget_bytes=max(budget_bytes - reserved, min(budget_bytes, kv_bytes_per_token)),
    )
    affordable = budget_bytes // page_bytes if page_bytes else 0
    if not affordable:
        return slots
    num_blocks = min(slots.num_slots * -(-slots.max_len // PAGE_TOKENS), affordable)
    max_len = min(slots.max_len, num_blocks * PAGE_TOKENS)
    num_pages = min(affordable - num_blocks, num_blocks)
    kv_bytes = (num_blocks + num_pages) * page_bytes
    return SlotPlan(min(max_slots, num_blocks), max_len, kv_bytes, num_pages, num_blocks)


def plan_slots(*, max_slots: int, max_len: int, kv_bytes_per_token: int, budget_bytes: int) -> SlotPlan:
    """The most slots within the budget; a long context is cut when not even `MIN_SLOTS` of it fit.

    Raises:
        ValueError: the budget does not hold one token for one request.
    """
    if kv_bytes_per_token <= 0:
        return SlotPlan(max_slots, max_len, 0)
    budget_tokens = budget_bytes // kv_bytes_per_token
    wanted = min(MIN_SLOTS, max_slots)
    if budget_tokens < wanted * max_len:
        max_len = min(max_len, budget_tokens, max(MIN_CONTEXT_TOKENS, budget_tokens // wanted))
    if max_len < 1:
        raise ValueError(
            f"a KV budget of {budget_bytes} bytes does not hold one token of {kv_bytes_per_token}"
        )
    num_slots = min(max_slots, budget_tokens // max_len)
    return SlotPlan(num_slots, max_len, num_slots * max_len * kv_bytes_per_token)


class SlotPool:
    """Which slots are free. Every slot is either free or held by exactly one request."""

    __slots__ = ("_free", "_held", "num_slots")
    grows = False
    """True if a row may have to ask for more room."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self._free = list(range(num_slots))
        self._held: set[int] = set()

    @property
    def num_free(self) -> int:
        """Slots that `take` can still give."""
        return len(self._free)

    def num_fitting(self, needs: Iterable[int]) -> int:
        """How many of the first requests, of so many tokens each, can be taken: here each slot holds any."""
        return sum(1 for _ in islice(needs, self.num_free))

    def take(self, num_tokens: int = 0) -> int | None:  # noqa: ARG002 - each slot holds as many as there may be
        """The lowest free slot, now held, for so many tokens; None when all are held."""
        if not self._free:
            return None
        slot = heapq.heappop(self._free)
        self._held.add(slot)
        return slot

    def has_room(self, slot: int, num_tokens: int) -> bool:  # noqa: ARG002 - as above
        """True if a held slot has room for so many tokens."""
        return True

    def grow(self, slot: int, num_tokens: int) -> bool:  # noqa: ARG002 - as above
        """Have room for so many tokens in a held slot; false where there is none: somebody must give way."""
        return True

    def give(self, slot: int) -> None:
        """Free a held slot.

        Raises:
            KeyError: nobody holds it.
        """
        self._held.remove(slot)
        heapq.heappush(self._free, slot)

    def check(self) -> None:
        """The invariants.

        Raises:
            RuntimeError: something is leaked or shared.
        """
        if sorted([*self._held, *self._free]) != list(range(self.num_slots)):
            raise RuntimeError(f"slots held {sorted(self._held)}, free {len(self._free)} of {self.num_slots}")


def side_by_side(slots: Sequence[int], lengths: Sequence[int]) -> Iterator[range]:
    """Cut rows (sorted by slot) into runs that one attention call serves: neighbours of like length.

    Yields ranges of row indices that cover all rows in order. In a run the slots are consecutive, and
    padding every row to the longest wastes at most `PADDING_SHARE` of the positions there are plus
    `PADDING_TOKENS`.
    """
    start, longest, total = 0, 0, 0
    for row, (slot, length) in enumerate(zip(slots, lengths, strict=True)):
        padded = max(longest, length) * (row - start + 1)
        fits = padded <= (total + length) * (1 + PADDING_SHARE) + PADDING_TOKENS
        if row > start and not (fits and slot == slots[row - 1] + 1):
            yield range(start, row)
            start, longest, total = row, 0, 0
        longest, total = max(longest, length), total + length
    if slots:
        yield range(start, len(slots))
