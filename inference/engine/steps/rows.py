"""One request on its way through the scheduler. Plain Python."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from inference.engine.steps.events import Segment
from inference.engine.steps.pages import PAGE_TOKENS, Chain

if TYPE_CHECKING:
    from inference.engine.orders.asked import Generate
    from inference.engine.steps.odds import Guesser
    from inference.engine.steps.tenants import Tenant


AGE_S = 5.0
"""A request of the next lower priority goes behind those that come within so many seconds after it."""


class State(enum.Enum):
    """Where a request is."""

    WAITING = "waiting"
    PREFILL = "prefill"
    DECODE = "decode"


class Row:
    """A request's tokens, and how many of them its slot holds.

    Attributes:
        account: Its tenant, from when it joins the others.
        rank: Who is less goes first. Its number is when the request came, `AGE_S` later for each step of
            priority; so it is first come, first served within one priority, and nobody waits behind requests
            that came more than so much later, whatever their priority.
        tokens: The prompt and what was sampled after it.
        num_computed: Tokens whose keys and values are in the slot.
        num_copied: Of those, the ones that came from kept pages.
        num_cached: Of the prompt's tokens, those that were copied before the first token came.
        num_charged: Of the prompt's tokens, those that its tenant has paid for; none is paid for twice.
        guesser: Guesses what comes next, if anything does (`inference.engine.steps.drafts`).
        turn: The last step that it had a turn in, where not all rows have one in each (`inference.engine.steps.crowd`).
    """

    __slots__ = (
        "account",
        "added_s",
        "admitted_s",
        "chain",
        "first_s",
        "guesser",
        "num_cached",
        "num_charged",
        "num_computed",
        "num_copied",
        "order",
        "rank",
        "slot",
        "state",
        "tokens",
        "turn",
    )

    account: Tenant

    def __init__(self, order: Generate, added_s: float, serial: int) -> None:
        self.order = order
        self.added_s = added_s
        self.rank = (added_s + order.priority * AGE_S, serial)
        self.tokens = [*order.tokens, *order.resumed]
        self.chain = Chain(order.tenant, self.tokens)
        self.state = State.WAITING
        self.slot = -1
        self.num_computed = 0
        self.num_copied = 0
        self.num_cached = 0
        self.num_charged = 0
        self.turn = 0
        self.admitted_s = 0.0
        self.first_s = 0.0
        self.guesser: Guesser | None = None

    @property
    def num_output(self) -> int:
        """Tokens of the answer so far."""
        return len(self.tokens) - len(self.order.tokens)

    @property
    def num_own(self) -> int:
        """Of those, the ones that were sampled here."""
        return self.num_output - len(self.order.resumed)

    def token_s(self, now: float) -> float:
        """What a token of it has taken on average since it got its slot, the first with its prompt included."""
        return (now - self.admitted_s) / self.num_own if self.num_own else 0.0

    def room_tokens(self, beyond: int) -> int:
        """Tokens to have room for: those there are and so many more, if it may ever have them."""
        return min(len(self.tokens) + beyond, len(self.order.tokens) + self.order.max_tokens)

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

    def suspend(self) -> None:
        """Take its slot away. It keeps its tokens; their keys and values are copied or computed again later."""
        self.slot, self.state = -1, State.WAITING
        self.num_computed = self.num_copied = 0

    def gives_way_to(self, other: Row) -> bool:
        """True if `other` is of a higher priority, and this one has not waited long enough to make up for it."""
        return other.order.priority < self.order.priority and other.rank < self.rank

    def drafted(self, drafts: tuple[int, ...]) -> Segment:
        """Its next token, and guesses of those behind it."""
        tokens = (self.tokens[self.num_computed], *drafts)
        return Segment(self.order.id, self.slot, self.num_computed, tokens, True, (), len(drafts))

    def segment(self, most: int, pages: tuple[int, ...] = ()) -> Segment:
        """Its next tokens, at most so many, behind `pages`."""
        start = self.num_computed + len(pages) * PAGE_TOKENS
        pending = tuple(self.tokens[start : start + most])
        samples = start + len(pending) == len(self.tokens)
        return Segment(self.order.id, self.slot, start, pending, samples, pages)

    def receive(self, part: Segment, num_right: int = 0) -> None:
        """A segment was computed; so many of its drafts were right, and what lies behind them is written over."""
        self.num_copied += len(part.pages) * PAGE_TOKENS
        self.num_computed = part.start + len(part.tokens) - part.num_drafts + num_right

    @property
    def num_uncharged(self) -> int:
        """Tokens of the prompt that its tenant has not paid for."""
        return max(0, len(self.order.tokens) - self.num_charged)

    def charge(self, part: Segment) -> int:
        """The prompt's tokens in a segment that are computed for the first time."""
        end = min(part.start + len(part.tokens), len(self.order.tokens))
        own = max(0, end - max(part.start, self.num_charged))
        self.num_charged = max(self.num_charged, end)
        return own

    def first_times_ms(self) -> tuple[float, float]:
        """Waiting for a slot, and from there to the first token."""
        return (self.admitted_s - self.added_s) * 1000, (self.first_s - self.admitted_s) * 1000
