"""What a node may ask of an engine: messages of the link become typed orders here, once, or are refused.

Plain Python. After this wall every token id is inside the vocabulary and every number is finite and in
range, so that nothing a request says can make a shared step fail.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inference.link import Message

MAX_ID_CHARS = 256
"""Request ids are made by the edge (36 characters) and given a suffix by the node."""
MAX_TENANT_CHARS = 256
MAX_PRIORITY = 9
"""Lower goes first, as vLLM has it. 0 is what everybody has who says nothing, and there is nothing before it:
a request can step back and can't push others back."""
MAX_WEIGHT = 1000
"""How many times another's share of a busy engine a tenant may have."""
MAX_LOGPROBS = 20
"""OpenAI's own limit of `top_logprobs`."""
MAX_BIASED_TOKENS = 1024
"""OpenAI allows 300 entries; each costs one scattered add a step."""
MAX_STOP_IDS = 256
MAX_EMBED_ROWS = 2048
"""OpenAI's own limit of inputs in one embeddings request."""
NUM_SEGMENTS = 2
"""A pair has two texts."""
MAX_TEMPERATURE = 100.0
"""OpenAI stops at 2; vLLM has no limit; beyond this every model is uniform noise."""
MAX_PENALTY = 100.0
MAX_SEED_BITS = 64
MAX_GRAMMAR_CHARS = 1024 * 1024
"""A request's body has no more; llguidance's own limits hold long before."""
LENGTH_BYTES = 2
"""Before each piece of a vocabulary; the longest public token has 256 bytes."""


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
    """The tenant's: its share of a busy engine beside the others' (`inference.engine.tenants`)."""
    grammar: str | None = None
    """What the answer must follow, in llguidance's terms."""
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
    """

    id: str
    rows: tuple[tuple[int, ...], ...]
    segments: tuple[tuple[int, ...], ...] = ()


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


def parse_order(message: Message, bounds: Bounds) -> Order:
    """The order in a message of the link.

    Raises:
        OrderRefused: an unknown operation or field, a value out of range, or a prompt over the context.
    """
    match message.get("op"):
        case "add":
            return _generate(_Fields(message), bounds)
        case "embed":
            return _embed(_Fields(message), bounds)
        case "vocabulary":
            return _vocabulary(message, bounds)
        case "cancel":
            return Cancel(_Fields(message).id)
        case "ping":
            return Ping()
        case "stop":
            return Stop()
        case other:
            raise OrderRefused(str(message.get("id", "")), "bad_request", f"unknown operation {other!r}")


def _generate(fields: _Fields, bounds: Bounds) -> Generate:
    tokens = fields.tokens("tokens", bounds)
    room = bounds.max_len - len(tokens)
    if room < 1:
        fields.refuse(
            f"the prompt has {len(tokens)} tokens, and the context of this model holds {bounds.max_len} "
            "tokens of prompt and answer together",
            "context_length_exceeded",
        )
    max_tokens = min(fields.whole("max_tokens", room, 1, 2**31), room)
    order = Generate(
        id=fields.id,
        tokens=tokens,
        max_tokens=max_tokens,
        sampling=_sampling(fields, bounds),
        stop_ids=frozenset(fields.ids("stop_ids", bounds, MAX_STOP_IDS)),
        min_tokens=fields.whole("min_tokens", 0, 0, max_tokens),
        ignore_eos=fields.flag("ignore_eos"),
        priority=fields.whole("priority", 0, 0, MAX_PRIORITY),
        tenant=fields.text("tenant", MAX_TENANT_CHARS),
        weight=fields.whole("weight", 1, 1, MAX_WEIGHT),
        grammar=fields.optional_text("grammar", MAX_GRAMMAR_CHARS),
        resumed=() if fields.absent("resumed") else fields.tokens("resumed", bounds),
    )
    if len(order.resumed) >= max_tokens:
        fields.refuse(f"{len(order.resumed)} tokens were made already, and the answer has {max_tokens}")
    fields.end()
    return order


def _vocabulary(message: Message, bounds: Bounds) -> Vocabulary:
    """Pieces as base64 of each one's length (2 bytes, big-endian) and bytes. Raises OrderRefused."""
    try:
        data = base64.b64decode(str(message.get("pieces")), validate=True)
    except (binascii.Error, ValueError) as cause:
        raise OrderRefused("", "bad_request", f"pieces that are no base64: {cause}") from cause
    pieces, at = [], 0
    while at < len(data):
        start = at + LENGTH_BYTES
        at = start + int.from_bytes(data[at:start], "big")
        pieces.append(data[start:at])
    special = message.get("special")
    if at != len(data) or len(pieces) > bounds.vocab_size or not isinstance(special, list):
        raise OrderRefused("", "bad_request", f"a vocabulary of {len(pieces)} pieces that does not fit")
    known = [each for each in special if type(each) is int and 0 <= each < len(pieces)]
    return Vocabulary(tuple(pieces), frozenset(known))


def _sampling(fields: _Fields, bounds: Bounds) -> Sampling:
    limit = MAX_PENALTY
    return Sampling(
        temperature=fields.number("temperature", 1.0, 0.0, MAX_TEMPERATURE),
        top_p=fields.number("top_p", 1.0, 0.0, 1.0),
        top_k=max(0, fields.whole("top_k", 0, -1, 2**31)),
        min_p=fields.number("min_p", 0.0, 0.0, 1.0),
        seed=fields.seed(),
        presence_penalty=fields.number("presence_penalty", 0.0, -limit, limit),
        frequency_penalty=fields.number("frequency_penalty", 0.0, -limit, limit),
        repetition_penalty=fields.number("repetition_penalty", 1.0, 1 / limit, limit),
        logit_bias=fields.bias(bounds),
        logprobs=None if fields.absent("logprobs") else fields.whole("logprobs", 0, 0, MAX_LOGPROBS),
    )


def _embed(fields: _Fields, bounds: Bounds) -> Embed:
    batch = fields.take("batch")
    if not isinstance(batch, list) or not 0 < len(batch) <= MAX_EMBED_ROWS:
        fields.refuse(f"batch must be a list of 1 to {MAX_EMBED_ROWS} rows")
    rows = tuple(fields.row(row, f"batch[{number}]", bounds) for number, row in enumerate(batch))
    if (longest := max(map(len, rows))) > bounds.max_len:
        fields.refuse(
            f"an input has {longest} tokens, and this model takes {bounds.max_len}", "context_length_exceeded"
        )
    segments = _segments(fields, rows)
    fields.end()
    return Embed(fields.id, rows, segments)


def _segments(fields: _Fields, rows: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    told = fields.take("segments")
    if told is None:
        return ()
    if not isinstance(told, list) or len(told) != len(rows):
        fields.refuse(f"segments must be a list of {len(rows)} rows")
    bounds = Bounds(NUM_SEGMENTS, 0)
    segments = tuple(fields.row(row, f"segments[{number}]", bounds) for number, row in enumerate(told))
    if list(map(len, segments)) != list(map(len, rows)):
        fields.refuse("segments must have one number for each token")
    return segments


class _Fields:
    """One message's fields, each taken once; whatever is left at the end is unknown."""

    __slots__ = ("_rest", "id")

    def __init__(self, message: Mapping[str, object]) -> None:
        self._rest = dict(message)
        self._rest.pop("op", None)
        order_id = self._rest.pop("id", None)
        if not isinstance(order_id, str) or not 0 < len(order_id) <= MAX_ID_CHARS:
            raise OrderRefused("", "bad_request", f"id must be a string of 1 to {MAX_ID_CHARS} characters")
        self.id = order_id

    def refuse(self, message: str, code: str = "bad_request") -> NoReturn:
        raise OrderRefused(self.id, code, message)

    def take(self, name: str) -> object:
        return self._rest.pop(name, None)

    def absent(self, name: str) -> bool:
        return self._rest.get(name) is None and (self._rest.pop(name, None) is None)

    def end(self) -> None:
        if self._rest:
            self.refuse(f"unknown fields: {', '.join(sorted(self._rest)[:5])}")

    def number(self, name: str, default: float, low: float, high: float) -> float:
        value = self.take(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            self.refuse(f"{name} must be a number from {low:g} to {high:g}")
        return float(value)

    def whole(self, name: str, default: int, low: int, high: int) -> int:
        value = self.take(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.refuse(f"{name} must be a whole number from {low} to {high}")
        return value

    def flag(self, name: str) -> bool:
        value = self.take(name)
        if value not in {None, True, False}:
            self.refuse(f"{name} must be true or false")
        return value is True

    def text(self, name: str, most_chars: int) -> str:
        value = self.take(name)
        if value is None:
            return ""
        if not isinstance(value, str) or len(value) > most_chars:
            self.refuse(f"{name} must be a string of at most {most_chars} characters")
        return value

    def optional_text(self, name: str, most_chars: int) -> str | None:
        value = self.take(name)
        if value is not None and (not isinstance(value, str) or len(value) > most_chars):
            self.refuse(f"{name} must be a text of at most {most_chars} characters")
        return value

    def seed(self) -> int | None:
        value = self.take("seed")
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value.bit_length() > MAX_SEED_BITS:
            self.refuse(f"seed must be a whole number of {MAX_SEED_BITS} bits")
        return value

    def tokens(self, name: str, bounds: Bounds) -> tuple[int, ...]:
        return self.row(self.take(name), name, bounds)

    def row(self, value: object, name: str, bounds: Bounds) -> tuple[int, ...]:
        if not isinstance(value, list) or not value:
            self.refuse(f"{name} must be a list of at least one token id")
        return tuple(self._id(token, name, bounds) for token in value)

    def ids(self, name: str, bounds: Bounds, most: int) -> tuple[int, ...]:
        value = self.take(name)
        if value is None or value == []:
            return ()
        row = self.row(value, name, bounds)
        if len(row) > most:
            self.refuse(f"{name} holds at most {most} token ids")
        return row

    def bias(self, bounds: Bounds) -> tuple[tuple[int, float], ...]:
        value = self.take("logit_bias")
        if value is None:
            return ()
        if not isinstance(value, dict) or len(value) > MAX_BIASED_TOKENS:
            self.refuse(f"logit_bias must be an object of at most {MAX_BIASED_TOKENS} tokens")
        return tuple(self._biased(token, bias, bounds) for token, bias in value.items())

    def _biased(self, token: str, bias: object, bounds: Bounds) -> tuple[int, float]:
        fits = token.isascii() and token.isdigit() and len(token) < MAX_ID_CHARS
        number = self._id(int(token) if fits else -1, "logit_bias", bounds)
        if isinstance(bias, bool) or not isinstance(bias, int | float) or not abs(bias) <= MAX_PENALTY:
            self.refuse(
                f"logit_bias of token {token} must be a number from {-MAX_PENALTY:g} to {MAX_PENALTY:g}"
            )
        return number, float(bias)

    def _id(self, token: object, name: str, bounds: Bounds) -> int:
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < bounds.vocab_size:
            raise OrderRefused(
                self.id,
                "bad_request",
                f"{name} holds {token!r:.40}, not a token id below {bounds.vocab_size}",
            )
        return token
