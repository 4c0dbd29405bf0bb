"""Blocks of keys and values, for a device whose attention reads a table of them. Plain Python, no torch.

A request has a slot, as everywhere, and in it blocks of `PAGE_TOKENS` tokens wherever they are: a device's memory is
not cut into slots of the longest context. It gets those of its prompt and a little more when it is admitted, and more
as it grows; where none is free, the least urgent request gives way and is computed again later.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from inference.engine.steps.pages import PAGE_TOKENS
from inference.engine.steps.slots import PAGES_SHARE, SlotPlan, SlotPool

if TYPE_CHECKING:
    from collections.abc import Iterable


def num_blocks(num_tokens: int) -> int:
    """Blocks that hold so many tokens."""
    return -(-num_tokens // PAGE_TOKENS)


def plan_blocks(*, max_slots: int, max_len: int, kv_bytes_per_token: int, budget_bytes: int) -> SlotPlan:
    """The room of a device: `PAGES_SHARE` of the budget for kept prefixes, the rest for the running requests.

    One block more than those is nobody's: what a step is padded with is written there.

    Raises:
        ValueError: the budget does not hold one block for one request.
    """
    block_bytes = PAGE_TOKENS * max(1, kv_bytes_per_token)
    affordable = budget_bytes // block_bytes - 1
    most = max_slots * num_blocks(max_len)
    num_pages = min(int(affordable * PAGES_SHARE), most)
    own = min(affordable - num_pages, most)
    if own < 1:
        raise ValueError(f"a KV budget of {budget_bytes} bytes does not hold two blocks of {block_bytes}")
    kv_bytes = (own + num_pages + 1) * PAGE_TOKENS * kv_bytes_per_token
    return SlotPlan(min(max_slots, own), min(max_len, own * PAGE_TOKENS), kv_bytes, num_pages, own)


class BlockPool(SlotPool):
    """Slots whose room is a list of blocks. Every block is free, or one held slot's."""

    __slots__ = ("_blocks", "_free_blocks", "num_blocks")
    grows = True

    def __init__(self, num_slots: int, num_blocks: int) -> None:
        super().__init__(num_slots)
        self.num_blocks = num_blocks
        self._free_blocks = list(range(num_blocks))
        self._blocks: dict[int, tuple[int, ...]] = {}

    def num_fitting(self, needs: Iterable[int]) -> int:
        """How many of the first requests, of so many tokens each, can be taken together."""
        room, count = len(self._free_blocks), 0
        for need in islice(needs, self.num_free):
            room -= num_blocks(need)
            if room < 0:
                break
            count += 1
        return count

    def take(self, num_tokens: int = 0) -> int | None:
        """The lowest free slot with blocks for so many tokens, now held; None where they are not free."""
        wanted = num_blocks(num_tokens)
        if wanted > len(self._free_blocks) or (slot := super().take()) is None:
            return None
        self._blocks[slot] = tuple(self._free_blocks.pop() for _ in range(wanted))
        return slot

    def has_room(self, slot: int, num_tokens: int) -> bool:
        """See `SlotPool`."""
        return len(self._blocks[slot]) * PAGE_TOKENS >= num_tokens

    def grow(self, slot: int, num_tokens: int) -> bool:
        """See `SlotPool`."""
        missing = num_blocks(num_tokens) - len(self._blocks[slot])
        if missing > len(self._free_blocks):
            return False
        self._blocks[slot] += tuple(self._free_blocks.pop() for _ in range(missing))
        return True

    def give(self, slot: int) -> None:
        """Free a held slot. Its list is told until the slot is taken again: what it held may yet be copied.

        Raises:
            KeyError: nobody holds it.
        """
        super().give(slot)
        self._free_blocks.extend(self._blocks[slot])

    def blocks(self, slot: int) -> tuple[int, ...]:
        """Where the tokens of a slot are, in their order."""
        return self._blocks[slot]

    def check(self) -> None:
        """See `SlotPool`."""
        super().check()
        held = [block for slot in self._held for block in self._blocks[slot]]
        if sorted([*held, *self._free_blocks]) != list(range(self.num_blocks)):
            raise RuntimeError(f"{len(held)} blocks held, {len(self._free_blocks)} free of {self.num_blocks}")
