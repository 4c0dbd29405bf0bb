"""One request on its way through the scheduler. Plain Python."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from inference.engine.events import Segment
from inference.engine.pages import PAGE_TOKENS, Chain

if TYPE_CHECKING:
    from inference.engine.orders import Generate


class State(enum.Enum):
    """Where a request is."""

    WAITING = "waiting"
    PREFILL = "prefill"
    DECODE = "decode"


class Row:
    """A request's tokens, and how many of them its slot holds.

    Attributes:
        tokens: The prompt and what was sampled after it.
        num_computed: Tokens whose keys and values are in the slot.
        num_copied: Of those, the ones that came from kept pages.
        num_cached: Of the prompt's tokens, those that were copied before the first token came.
    """

    __slots__ = (
        "added_s",
        "admitted_s",
        "chain",
        "first_s",
        "num_cached",
        "num_computed",
        "num_copied",
        "order",
        "slot",
        "state",
        "tokens",
    )

    def __init__(self, order: Generate, added_s: float) -> None:
        self.order = order
        self.added_s = added_s
        self.tokens = list(order.tokens)
        self.chain = Chain(order.tenant, self.tokens)
        self.state = State.WAITING
        self.slot = -1
        self.num_computed = 0
        self.num_copied = 0
        self.num_cached = 0
        self.admitted_s = 0.0
        self.first_s = 0.0

    @property
    def num_output(self) -> int:
        """Tokens sampled so far."""
        return len(self.tokens) - len(self.order.tokens)

    @property
    def is_fresh(self) -> bool:
        """Nothing was computed for it in its slot yet: kept pages may still be copied there."""
        return self.num_computed == 0

    @property
    def num_reusable(self) -> int:
        """Whole blocks that may be copied: the last token is always computed, for its logits."""
        return (len(self.tokens) - 1) // PAGE_TOKENS

    def admit(self, slot: int, now: float) -> None:
        """Give it a slot."""
        self.slot, self.state, self.admitted_s = slot, State.PREFILL, now

    def segment(self, most: int, pages: tuple[int, ...] = ()) -> Segment:
        """Its next tokens, at most so many, behind `pages`."""
        start = self.num_computed + len(pages) * PAGE_TOKENS
        pending = tuple(self.tokens[start : start + most])
        samples = start + len(pending) == len(self.tokens)
        return Segment(self.order.id, self.slot, start, pending, samples, pages)

    def receive(self, part: Segment) -> None:
        """A segment was computed."""
        self.num_copied += len(part.pages) * PAGE_TOKENS
        self.num_computed = part.start + len(part.tokens)

    def first_times_ms(self) -> tuple[float, float]:
        """Waiting for a slot, and from there to the first token."""
        return (self.admitted_s - self.added_s) * 1000, (self.first_s - self.admitted_s) * 1000
