"""An event stream on its way through a hop, cut after whole events: an error event never lands inside another."""

from typing import Final

MAX_EVENT_BYTES: Final = 4 << 20  # one event; a longer one is passed on in pieces


class EventCut:
    """Cuts a byte stream after whole events: an empty line, ended by LF or, from external engines, by CR LF. Pure."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """The bytes up to the end of the last whole event; what follows is kept for the next call."""
        whole = self._rest + data if self._rest else data
        blank, crlf_blank = whole.rfind(b"\n\n"), whole.rfind(b"\n\r\n") if b"\r" in whole else -1
        end = max(blank + 2 if blank >= 0 else 0, crlf_blank + 3 if crlf_blank >= 0 else 0)
        if not end and len(whole) > MAX_EVENT_BYTES:
            end = len(whole)
        self._rest = whole[end:]
        return whole[:end] if self._rest else whole

    def rest(self) -> bytes:
        """What came after the last whole event."""
        rest, self._rest = self._rest, b""
        return rest
