"""The client side of HTTP/1.1 without I/O: bytes in, one answer's events or an error out."""

import re
from collections.abc import Mapping

from wire.framing import (
    END,
    NO_BODY,
    Body,
    ChunkedFraming,
    End,
    EofFraming,
    Framing,
    FramingError,
    LengthFraming,
)
from wire.heads import (
    LENGTH,
    NAME_CHARS,
    HeadBuffer,
    ResponseHead,
    first_values,
    read_fields,
    says_close,
)

RESPONSE_HEAD_BYTES = 64 * 1024  # our own hops send under 4 KiB; S3 user metadata may add 8
RESPONSE_NUM_HEADERS = 128
_TEXT = r"[\t\x20-\x7e\x80-\xff]*"  # S3 stores echo user metadata as it was sent
_RESPONSE = re.compile(
    rf"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: {_TEXT})?\r\n((?:[{NAME_CHARS}_]+:{_TEXT}\r\n)*)\r\n"
)


class ResponseError(ValueError):
    """An upstream's answer is malformed: nothing of it can be trusted, its connection is not used again."""


class Unframed(Exception):
    """The connection ended inside an answer."""


class ResponseReader:
    """The client side of one connection: `start(method)` before each request, then bytes in, events out."""

    def __init__(self) -> None:
        self._head = HeadBuffer(RESPONSE_HEAD_BYTES)
        self._framing: Framing | None = None
        self._method = ""
        self.started = False  # a byte of the current answer was seen
        self.continued = False  # 100 Continue was seen

    def start(self, method: str) -> None:
        """Expect the answer to a request of `method` next."""
        self._framing, self._method = None, method
        self.started = self.continued = False

    @property
    def reusable(self) -> bool:
        """True if the answer is complete and not a byte came after it."""
        return self._framing is not None and self._framing.done and not self._head.data

    def receive(self, data: bytes) -> list[ResponseHead | Body | End]:
        """The events that `data` completes; interim (1xx) answers are swallowed. Raises ResponseError."""
        self.started = True
        try:
            framing = self._framing
            return self._begin(data) if framing is None else self._take_body(framing, data, [])
        except (FramingError, OverflowError) as error:
            raise ResponseError(f"the answer is malformed: {error}") from None

    def receive_eof(self) -> list[ResponseHead | Body | End]:
        """The peer closed: the End of an answer framed so. Raises Unframed if it cuts an answer short."""
        if isinstance(self._framing, EofFraming):
            self._framing = NO_BODY
            return [END]
        raise Unframed("the connection ended inside an answer")

    def _begin(self, data: bytes) -> list[ResponseHead | Body | End]:
        end = -1 if self._head.data else data.find(b"\r\n\r\n", 0, RESPONSE_HEAD_BYTES)
        while True:
            if end > 0:  # the usual head comes in one piece
                raw, data = data[: end + 4].decode("latin-1"), data[end + 4 :]
            elif taken := self._head.take(data):
                raw, data = taken
            else:
                return []
            head = _read_head(raw)
            if head.status >= 200:
                framing = self._framing = _framing(self._method, head)
                return self._take_body(framing, data, [head])
            self.continued = self.continued or head.status == 100
            end = -1

    def _take_body(
        self, framing: Framing, data: bytes, events: list[ResponseHead | Body | End]
    ) -> list[ResponseHead | Body | End]:
        if framing.done and not events:
            raise FramingError("bytes after the answer")
        pieces, rest = ([], data) if framing.done else framing.feed(data)
        events += [Body(piece) for piece in pieces]
        if framing.done:
            self._head.data = rest
            events.append(END)
        return events


def _read_head(raw: str) -> ResponseHead:
    match = _RESPONSE.fullmatch(raw)
    if match is None:
        blank = raw[0] in "\r\n"
        raise FramingError("a blank line comes before the message" if blank else "its head is not HTTP/1")
    minor, status, fields = match.groups()
    headers, control = read_fields(fields)
    if len(headers) > RESPONSE_NUM_HEADERS:
        raise FramingError("too many headers")
    chunked, length = _length(control)
    if status == "101":
        raise FramingError("an upgrade nobody asked for")
    framed = chunked or length is not None or status in {"204", "304"}
    keep_alive = framed and minor == "1" and not ("connection" in control and says_close(control))
    return ResponseHead(int(status), headers, length, chunked, keep_alive, first_values(headers, control))


def _length(control: Mapping[str, str]) -> tuple[bool, int | None]:
    """Whether the body is chunked, or else how long it is, where that is said."""
    coding, length = control.get("transfer-encoding"), control.get("content-length")
    if coding is not None:
        if length is not None or coding.lower() != "chunked":
            raise FramingError("an unknown transfer coding, or an ambiguous length")
        return True, None
    if length is not None and not LENGTH.fullmatch(length):
        raise FramingError("the length is no number")
    return False, None if length is None else int(length)


def _framing(method: str, head: ResponseHead) -> Framing:
    if method == "HEAD" or head.status in {204, 304}:
        return NO_BODY
    if head.chunked:
        return ChunkedFraming()
    return EofFraming() if head.content_length is None else LengthFraming(head.content_length)
