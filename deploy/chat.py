"""`nearfield chat`: a question, the answer as it comes, and where the time went."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deploy.client import ApiError, Client, Unreachable
from wire.timing import parse_receipt

Message = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Told:
    """A whole streamed answer: its text, the response's headers, usage, and each hop's receipt."""

    text: str
    headers: Mapping[str, str]
    usage: Mapping[str, int] | None
    receipts: Sequence[Mapping[str, Any]] = field(default_factory=tuple)

    def receipt(self, hop: str) -> Mapping[str, Any]:
        """The last receipt of one hop, or an empty one."""
        return next((r for r in reversed(self.receipts) if r.get("hop") == hop), {})


def ask(
    client: Client,
    model: str,
    messages: Sequence[Message],
    *,
    max_tokens: int = 256,
    region: str | None = None,
    on_token: Callable[[], None] = lambda: None,
    on_text: Callable[[str], None] = lambda _: None,
    on_wait: Callable[[Mapping[str, Any]], None] = lambda _: None,
) -> Told:
    """Ask greedily and stream; `on_wait` hears of phase, percent and ETA while a cold model wakes.

    `on_token` is called once, at the event that opens the answer: it leaves with the first token, whether that shows
    any text or is one of thinking, an empty one or half a character.

    Raises:
        ApiError: the platform refused, or the stream ended in an error event.
        Unreachable: nobody answered, or the answer broke off.
    """
    body = {
        "model": model,
        "messages": list(messages),
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    headers, lines = client.stream("/v1/chat/completions", body, region=region)
    text, usage, receipts, is_open = [], None, [], False
    for kind, value in _events(lines):
        if kind == "note":
            if "hop" in value:
                receipts.append(value)
            else:
                on_wait(value)
        elif kind == "chunk":
            if not is_open:
                is_open = True
                on_token()
            usage = value.get("usage") or usage
            for piece in _pieces(value):
                text.append(piece)
                on_text(piece)
    return Told("".join(text), headers, usage, tuple(receipts))


def _events(lines: Iterator[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    is_whole = False
    for line in lines:
        if line.startswith(":"):
            receipt = parse_receipt(line)
            if receipt is not None:
                yield "note", receipt
        elif line == "data: [DONE]":
            is_whole = True
        elif line.startswith("data: "):
            yield "chunk", _chunk(line[6:])
    if not is_whole:
        raise Unreachable("the answer broke off before its end; what came is not all of it")


def _chunk(data: str) -> Mapping[str, Any]:
    value: dict[str, Any] = json.loads(data)
    if "error" in value:
        error = value["error"]
        raise ApiError(200, str(error.get("code")), str(error.get("message")))
    return value


def _pieces(chunk: Mapping[str, Any]) -> Iterator[str]:
    for choice in chunk.get("choices", ()):
        piece = choice.get("delta", {}).get("content")
        if piece:
            yield piece
