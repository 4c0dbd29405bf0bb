"""What the scheduler asks of the model, and what it says happened. Plain values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive tokens of one row to compute: positions `start` to `start + len(tokens)` of its slot."""

    id: str
    slot: int
    start: int
    tokens: tuple[int, ...]
    samples: bool
    """The last token's logits give the row's next token."""
    pages: tuple[int, ...] = ()
    """Kept pages to copy to the slot first; their tokens end at `start`."""
    num_drafts: int = 0
    """Of the tokens the last ones, which are guesses: the logits before and after each of them are wanted too."""

    @property
    def drafts(self) -> tuple[int, ...]:
        """The guesses."""
        return self.tokens[len(self.tokens) - self.num_drafts :]


Step = tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class Emitted:
    """One new token of a request; the times and `num_cached` are on its first token only."""

    id: str
    token: int
    queue_ms: float | None = None
    prefill_ms: float | None = None
    num_cached: int = 0
    """Tokens of the prompt that were not computed for this request: they came from kept pages."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What `slot` holds from position `start` on is to be copied to `pages`, before anything else is done."""

    id: str
    slot: int
    start: int
    pages: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """A request left and freed `slot`. `stop_id` ended it: counted in `num_output`, not emitted."""

    id: str
    reason: str
    num_prompt: int
    num_output: int
    decode_ms: float
    slot: int | None
    stop_id: int | None = None
    num_cached: int = 0


@dataclass(frozen=True, slots=True)
class Failed:
    """A request left without an answer, or was never let in (`slot` is None)."""

    id: str
    code: str
    message: str
    slot: int | None = None
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Preempted:
    """A request gave `slot` to a more urgent one and waits; its answer goes on later where it stopped."""

    id: str
    slot: int
    is_proven: bool
    """It had a token: what the slot holds are numbers."""


Event = Emitted | Stored | Ended | Failed | Preempted
