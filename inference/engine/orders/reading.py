"""The wall between node and engine: messages of the link become typed orders here, once, or are refused.

Plain Python. Behind it every token id is inside the vocabulary and every number is finite and in range, so that
nothing a request says can make a shared step fail.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

from inference.engine.orders.asked import (
    MAX_PRIORITY,
    MAX_WEIGHT,
    NUM_SEGMENTS,
    Bounds,
    Cancel,
    Embed,
    Generate,
    OrderRefused,
    Ping,
    Sampling,
    Stop,
    Vocabulary,
)
from inference.engine.orders.fields import MAX_PENALTY, Fields

if TYPE_CHECKING:
    from inference.engine.orders.asked import Order
    from inference.link import Message

MAX_TENANT_CHARS = 256
MAX_LOGPROBS = 20
"""OpenAI's own limit of `top_logprobs`."""
MAX_STOP_IDS = 256
MAX_EMBED_ROWS = 2048
"""OpenAI's own limit of inputs in one embeddings request."""
MAX_TEMPERATURE = 100.0
"""OpenAI stops at 2; vLLM has no limit; beyond this every model is uniform noise."""
MAX_GRAMMAR_CHARS = 1024 * 1024
"""A request's body has no more; llguidance's own limits hold long before."""
LENGTH_BYTES = 2
"""Before each piece of a vocabulary; the longest public token has 256 bytes."""


def parse_order(message: Message, bounds: Bounds) -> Order:
    """The order in a message of the link.

    Raises:
        OrderRefused: an unknown operation or field, a value out of range, or a prompt over the context.
    """
    match message.get("op"):
        case "add":
            return _generate(Fields(message), bounds)
        case "embed":
            return _embed(Fields(message), bounds)
        case "vocabulary":
            return _vocabulary(message, bounds)
        case "cancel":
            return Cancel(Fields(message).id)
        case "ping":
            return Ping()
        case "stop":
            return Stop()
        case other:
            raise OrderRefused(str(message.get("id", "")), "bad_request", f"unknown operation {other!r}")


def _generate(fields: Fields, bounds: Bounds) -> Generate:
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
        has_waited=fields.flag("has_waited"),
        grammar=fields.optional_text("grammar", MAX_GRAMMAR_CHARS),
        predicted=fields.ids("predicted", bounds, bounds.max_len),
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


def _sampling(fields: Fields, bounds: Bounds) -> Sampling:
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


def _embed(fields: Fields, bounds: Bounds) -> Embed:
    batch = fields.take("batch")
    if not isinstance(batch, list) or not 0 < len(batch) <= MAX_EMBED_ROWS:
        fields.refuse(f"batch must be a list of 1 to {MAX_EMBED_ROWS} rows")
    rows = tuple(fields.row(row, f"batch[{number}]", bounds) for number, row in enumerate(batch))
    if (longest := max(map(len, rows))) > bounds.max_len:
        fields.refuse(
            f"an input has {longest} tokens, and this model takes {bounds.max_len}", "context_length_exceeded"
        )
    segments = _segments(fields, rows)
    tenant, weight = fields.text("tenant", MAX_TENANT_CHARS), fields.whole("weight", 1, 1, MAX_WEIGHT)
    fields.end()
    return Embed(fields.id, rows, segments, tenant, weight)


def _segments(fields: Fields, rows: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
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
