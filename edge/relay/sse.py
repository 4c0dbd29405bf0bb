"""An event stream on its way through, watched for the moment that commits it.

Pure. A stream is committed by its first event; comments before it (`: nearfield {...}`) commit nothing, so until
then the request may still be replayed elsewhere.
"""

from __future__ import annotations

import json
import re
from typing import Final

CONTENT_TYPE: Final = "text/event-stream"
_DONE: Final = re.compile(rb"(?:^|\n)data: ?\[DONE\]\r?\n\r?\n")
_NEWS: Final = re.compile(rb"\n\n[^:]|\r")  # more than comments, or lines that end otherwise
_ID: Final = re.compile(rb"id: ?([0-9]{1,15})\r?\n")
_LF, _CR, _JSON = 10, 13, b"data: {"
# How the answers of each route end: OpenAI's chats and completions, Anthropic's messages, OpenAI's responses, errors.
_OVER: Final = re.compile(
    rb'"finish_reason": ?"|"choices": ?\[\]'
    rb"|(?:^|\n)event: ?(?:message_stop|error|response\.(?:completed|incomplete|failed))\r?\n"
    rb'|(?:^|\n)data: ?\{"(?:error": ?\{|type": ?"(?:error|message_stop|response\.(?:completed|incomplete|failed)))'
)


def first_event(block: bytes) -> bytes | None:
    """The data of the first event in `block` (whole events), or None if it holds comments alone.

    The line with an event's name comes before its data, and is not asked for.
    """
    for line in block.splitlines():
        if line and not line.startswith((b":", b"event:")):
            return line.removeprefix(b"data:").strip()
    return None


def last_event(block: bytes) -> bytes:
    """The data of the last event in `block` (whole events) that is no comment; empty if there is none."""
    start = block.rfind(b"data:")
    return block[start:].partition(b"\n")[0].removeprefix(b"data:").strip() if start >= 0 else b""


def error_code(event: bytes) -> str | None:
    """The `code` of an event that is OpenAI's or Anthropic's error object, else None."""
    if not event.startswith((b'{"error"', b'{"type": "error"')):
        return None
    try:
        error = json.loads(event)["error"]
        return str(error.get("code"))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None


class Ending:
    """Watches a stream for its end, so that one that only stops is not taken for whole. Pure.

    An event whose SSE `id` is a number is passed on once, and nothing but comments after `[DONE]`: what a hop before us
    says twice, the client hears once. Events without ids that are alike are the model's own.
    """

    __slots__ = ("_done", "_last", "_last_id")

    def __init__(self) -> None:
        self._last = b""
        self._last_id = -1
        self._done = False

    @property
    def is_done(self) -> bool:
        """Whether `[DONE]` was passed on: nothing that follows matters."""
        return self._done

    @property
    def is_good(self) -> bool:
        """Whether the last events said that the answer is over, well or not; comments alone say nothing."""
        return self._done or _OVER.search(self._last) is not None

    def passes(self, block: bytes) -> bool:
        """Whether `block` (whole events) is one line of JSON, and news: then it was passed on, and is all of that.

        It has no name, no id and no receipt, and is not `[DONE]`: `pass_on` would give it back after six looks at it.
        """
        is_line = block.find(_LF) == len(block) - 2 and block.startswith(_JSON) and block.find(_CR) < 0
        if not is_line or self._done:
            return False
        self._last = block
        return True

    def pass_on(self, block: bytes) -> bytes:
        """What the client is to hear of `block` (whole events)."""
        if self._done or block.startswith(b"id:"):
            block = b"".join([event for event in _events(block) if self._is_news(event)])
        if not block.startswith(b":") or b"\ndata:" in block:
            self._last = block or self._last
            if b"[DONE]" in block and (found := _DONE.search(block)) is not None:
                return self._after_done(block, found.end())
        return block

    def _after_done(self, block: bytes, end: int) -> bytes:
        self._done = True
        if _NEWS.search(block, end - 2) is None:
            return block
        rest = block[end:]
        return block[:end] + b"".join([event for event in _events(rest) if self._is_news(event)])

    def _is_news(self, event: bytes) -> bool:
        if self._done:
            return event.startswith(b":")
        number = _ID.match(event)
        if number is None:
            return True
        is_new = int(number[1]) > self._last_id
        self._last_id = max(self._last_id, int(number[1]))
        return is_new


def _events(block: bytes) -> list[bytes]:
    return [event + b"\n\n" for event in block.replace(b"\r\n", b"\n").split(b"\n\n") if event]
