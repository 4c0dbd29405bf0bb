"""A streamed answer as the client's clock saw it: bytes and their arrival in, tokens, receipts and errors out. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wire.timing import parse_receipt

MAX_LINE_BYTES = 4 * 1024 * 1024  # one event; ours are under 64 KiB
DONE = "[DONE]"


@dataclass(slots=True)
class StreamReading:
    """Feed `receive` the body as it comes. Times are seconds of the caller's clock.

    `first_s`, `last_s`: arrival of the first and the last event that carried text.
    `error`: the stream's error event, if it ended in one.
    """

    first_s: float | None = None
    last_s: float | None = None
    num_events: int = 0
    text: str = ""
    usage: Mapping[str, Any] = field(default_factory=dict)
    receipts: list[Mapping[str, object]] = field(default_factory=list)
    error: str | None = None
    complete: bool = False
    _rest: bytes = b""

    def receive(self, data: bytes, now_s: float) -> None:
        """Take the bytes that arrived at ``now_s``. Raises ValueError on a line that no server of ours sends."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            raise ValueError(f"a line of the stream exceeds {MAX_LINE_BYTES} bytes")
        for line in lines:
            self._line(line.rstrip(b"\r").decode("utf-8", "replace"), now_s)

    def _line(self, line: str, now_s: float) -> None:
        if line.startswith(":"):
            self._comment(line)
        elif line.startswith("data:"):
            data = line[5:].strip()
            self.complete = self.complete or data == DONE
            if data and data != DONE:
                self._event(json.loads(data), now_s)

    def _comment(self, line: str) -> None:
        receipt = parse_receipt(line)
        if receipt is not None and "hop" in receipt:
            self.receipts.append(receipt)

    def _event(self, event: Any, now_s: float) -> None:
        if not isinstance(event, dict):
            raise ValueError("an event of the stream is not an object")  # noqa: TRY004 - bad input, not a bad call
        if isinstance(event.get("error"), dict):
            self.error = f"{event['error'].get('code')}: {event['error'].get('message')}"
        if isinstance(event.get("usage"), dict):
            self.usage = event["usage"]
        piece = _text(event.get("choices"))
        if piece:
            self.text += piece
            self.first_s = now_s if self.first_s is None else self.first_s
            self.last_s = now_s
            self.num_events += 1


def _text(choices: Any) -> str:
    """The text that one chunk adds, of chat (`delta.content`) or plain (`text`) completions."""
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return ""
    delta = choices[0].get("delta")
    piece = delta.get("content") if isinstance(delta, dict) else choices[0].get("text")
    return piece if isinstance(piece, str) else ""
