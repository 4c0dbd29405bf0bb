"""An event stream on its way through, watched for the moment that commits it.

Pure. A stream is committed by its first event; comments before it (`: nearfield {...}`) commit nothing, so until
then the request may still be replayed elsewhere.
"""

from __future__ import annotations

import json
from typing import Final

CONTENT_TYPE: Final = "text/event-stream"


def first_event(block: bytes) -> bytes | None:
    """The data of the first event in `block` (whole events), or None if it holds comments alone.

    The line with an event's name comes before its data, and is not asked for.
    """
    for line in block.splitlines():
        if line and not line.startswith((b":", b"event:")):
            return line.removeprefix(b"data:").strip()
    return None


def error_code(event: bytes) -> str | None:
    """The `code` of an event that is OpenAI's or Anthropic's error object, else None."""
    if not event.startswith((b'{"error"', b'{"type": "error"')):
        return None
    try:
        error = json.loads(event)["error"]
        return str(error.get("code"))
    except (ValueError, TypeError, AttributeError):
        return None
