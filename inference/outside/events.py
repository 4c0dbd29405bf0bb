"""An external engine's event stream, read event by event under bounds. Pure: bytes in, events out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_EVENT_BYTES = 1 << 20
"""One event; log probabilities of a whole batch are some 100 KB."""
DONE = "[DONE]"
LAST_TYPES = frozenset({"response.completed", "response.incomplete", "response.failed", "message_stop"})


class StreamError(Exception):
    """What came is no event stream, or more of one than we take."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its data, and its name where it has one."""

    data: str
    name: str = ""


class EventReader:
    """Feed it what arrives; comments, ids and empty events are passed over."""

    def __init__(self, max_bytes: int) -> None:
        self._left_bytes = max_bytes
        self._rest = b""

    def feed(self, data: bytes) -> list[Event]:
        """The events that are whole now. Raises StreamError."""
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            raise StreamError("its answer is longer than is read")
        whole = (self._rest + data).replace(b"\r\n", b"\n")
        *blocks, self._rest = whole.split(b"\n\n")
        if len(self._rest) > MAX_EVENT_BYTES:
            raise StreamError("it sent an event without an end")
        return [event for block in blocks if (event := _event(block)) is not None]

    def end(self) -> list[Event]:
        """What the stream ended with: some servers leave the last empty line out. Raises StreamError."""
        return self.feed(b"\n\n") if self._rest.strip() else []


def is_last(value: Mapping[str, Any]) -> bool:
    """Whether an event ends an answer: servers that frame a stream by closing it look alike when they die."""
    if value.get("type") in LAST_TYPES:
        return True
    choices = value.get("choices")
    return isinstance(choices, list) and any(
        isinstance(each, dict) and each.get("finish_reason") is not None for each in choices
    )


def _event(block: bytes) -> Event | None:
    """One block of lines. Raises StreamError: it is not UTF-8, or none of its lines is a field of an event."""
    try:
        lines = block.decode().split("\n")
    except UnicodeDecodeError as cause:
        raise StreamError("it sent bytes that are no text") from cause
    fields: dict[str, list[str]] = {"data": [], "event": [], "id": [], "retry": []}
    for line in lines:
        name, colon, value = line.partition(":")
        if line and name and not (colon and name in fields):
            raise StreamError("it sent lines that belong to no event")
        if name:
            fields[name].append(value.removeprefix(" "))
    return Event("\n".join(fields["data"]), "".join(fields["event"])) if fields["data"] else None
