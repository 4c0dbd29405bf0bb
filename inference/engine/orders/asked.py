"""What a node may ask of an engine, as types. `engine.orders.reading` makes them from messages of the link."""

from __future__ import annotations

from dataclasses import dataclass

MAX_PRIORITY = 9
"""Lower goes first, as vLLM has it. 0 is what everybody has who says nothing, and there is nothing before it:
a request can step back and can't push others back."""
MAX_WEIGHT = 1000
"""How many times another's share of a busy engine a tenant may have."""
NUM_SEGMENTS = 2
"""A pair has two texts."""


PONG = {"op": "pong"}
"""The answer to a `Ping`."""


class OrderRefused(Exception):
    """This order cannot be done; the others are not touched. `id` is empty when the message had none."""

    def __init__(self, order_id: str, code: str, message: str) -> None:
        super().__init__(message)
        self.id = order_id
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 are off."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class Generate:
    """One answer to the prompt `tokens`; ends at an end-of-sequence id, a `stop_ids` id or `max_tokens`."""

    id: str
    tokens: tuple[int, ...]
    max_tokens: int
    sampling: Sampling = Sampling()
    stop_ids: frozenset[int] = frozenset()
    min_tokens: int = 0
    ignore_eos: bool = False
    priority: int = 0
    tenant: str = ""
    """Whose prompt it is: only the same tenant's prompts begin behind what it left. Empty: nobody in particular."""
    weight: int = 1
    """The tenant's: its share of a busy engine beside the others' (`inference.engine.steps.tenants`)."""
    has_waited: bool = False
    """Whether it had to wait for its tenant's turn, or for a place of its key's at the edge: that wants more than it is
    given (`inference.engine.steps.crowd`)."""
    grammar: str | None = None
    """What the answer must follow, in llguidance's terms."""
    predicted: tuple[int, ...] = ()
    """What the caller expects of the answer: guesses are looked for there too."""
    resumed: tuple[int, ...] = ()
    """The answer's first tokens, which another engine made: this one goes on behind them, and says nothing of them."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The bytes that each token writes, by its id (b"" for an id that is none), and which write no text."""

    pieces: tuple[bytes, ...]
    special: frozenset[int]


@dataclass(frozen=True, slots=True)
class Embed:
    """One batch of texts, each a row of token ids.

    `segments`: of each token of each row, 0 or 1: which of a pair's two texts it belongs to. Empty where all are 0.
    `tenant`, `weight`: whose it is, and its share of a busy engine.
    """

    id: str
    rows: tuple[tuple[int, ...], ...]
    segments: tuple[tuple[int, ...], ...] = ()
    tenant: str = ""
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Cancel:
    """Drop that request, wherever it is."""

    id: str


@dataclass(frozen=True, slots=True)
class Ping:
    """Say `pong`: between two steps, so it says that the loop goes on."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Finish what runs, take nothing new, then exit."""


Order = Generate | Embed | Vocabulary | Cancel | Ping | Stop


@dataclass(frozen=True, slots=True)
class Bounds:
    """What this engine can hold: ids below `vocab_size`, `max_len` tokens of prompt and answer together."""

    vocab_size: int
    max_len: int
