"""An event stream on its way through: cut after whole events, and watched for the moment that commits it.

Pure. A stream is committed by its first event; comments before it (`: nearfield {...}`) commit nothing, so until
then the request may still be replayed elsewhere. An error event never lands inside another event.
"""

from __future__ import annotations

import json
from typing import Final

CONTENT_TYPE: Final = "text/event-stream"
MAX_EVENT_BYTES: Final = 4 << 20  # one event; a longer one is passed on in pieces


class EventCut:
    """Cuts a byte stream after whole events."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """The bytes up to the end of the last whole event; what follows is kept for the next call."""
        whole = self._rest + data if self._rest else data
        end = max(whole.rfind(b"\n\n") + 2, whole.rfind(b"\r\n\r\n") + 4 if b"\r" in whole else 0)
        if end < 2:
            end = len(whole) if len(whole) > MAX_EVENT_BYTES else 0
        self._rest = whole[end:]
        return whole[:end] if self._rest else whole

    def rest(self) -> bytes:
        """What came after the last whole event."""
        rest, self._rest = self._rest, b""
        return rest


def first_event(block: bytes) -> bytes | None:
    """The data of the first event in `block` (whole events), or None if it holds comments alone."""
    for line in block.splitlines():
        if line and not line.startswith(b":"):
            return line.removeprefix(b"data:").strip()
    return None


def error_code(event: bytes) -> str | None:
    """The `code` of an event that is OpenAI's error object, else None."""
    if not event.startswith(b'{"error"'):
        return None
    try:
        error = json.loads(event)["error"]
        return str(error.get("code"))
    except (ValueError, TypeError, AttributeError):
        return None


def event(data: bytes) -> bytes:
    """`data` (without line ends) as one event."""
    return b"data: " + data + b"\n\n"
