"""The client side of HTTP/1.1 without I/O: bytes in, one answer's events or an error out."""

import re
from collections.abc import Mapping

from wire.http.framing import (
    END,
    NO_BODY,
    Body,
    ChunkedFraming,
    End,
    EofFraming,
    Framing,
    FramingError,
    LengthFraming,
    few,
)
from wire.http.heads import (
    NAME_CHARS,
    HeadBuffer,
    Headers,
    ResponseHead,
    first_values,
    is_length,
    read_fields,
    says_close,
)

RESPONSE_HEAD_BYTES = 64 * 1024  # our own hops send under 4 KiB; S3 user metadata may add 8
RESPONSE_NUM_HEADERS = 128
MAX_INTERIM = (
    4096  # answers of 1xx before the one that counts: a pulse every 2 s of an answer that takes two hours
)
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
        self.num_interim = 0  # answers before the final one (1xx) that were seen

    def start(self, method: str) -> None:
        """Expect the answer to a request of `method` next."""
        self._framing, self._method = None, method
        self.started = self.continued = False
        self.num_interim = 0

    def go_on_chunked(self) -> None:
        """Somebody else has read the head and whole chunks."""
        self.started, self._framing = True, ChunkedFraming()

    @property
    def ends_by_close(self) -> bool:
        """True if nothing but the connection's end will say where the answer ends: a cut one looks whole."""
        return isinstance(self._framing, EofFraming)

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
        while (taken := self._head.take(data)) is not None:
            raw, data = taken
            head = self._read_head(raw)
            if head.status >= 200:
                framing = self._framing = self._frame(head)
                return self._take_body(framing, data, [head])
            self.num_interim += 1
            if self.num_interim > MAX_INTERIM:
                raise FramingError("too many interim answers")
        return []

    def _take_body(
        self, framing: Framing, data: bytes, events: list[ResponseHead | Body | End]
    ) -> list[ResponseHead | Body | End]:
        if framing.done and not events:
            raise FramingError("bytes after the answer")
        pieces, rest = ([], data) if framing.done else framing.feed(data)
        events += [Body(piece) for piece in few(pieces)]
        if framing.done:
            self._head.data = rest
            events.append(END)
        return events

    def _read_head(self, raw: str) -> ResponseHead:
        match = _RESPONSE.fullmatch(raw)
        if match is None:
            raise FramingError("its head is not HTTP/1")
        minor, status, fields = match.groups()
        headers, control = read_fields(fields)
        head = _checked_response(int(status), headers, control, is_11=minor == "1")
        if head.status == 101:
            raise FramingError("an upgrade nobody asked for")
        if head.status == 100:
            self.continued = True
        return head

    def _frame(self, head: ResponseHead) -> Framing:
        if self._method == "HEAD" or head.status in {204, 304}:
            return NO_BODY
        if head.chunked:
            return ChunkedFraming()
        return EofFraming() if head.content_length is None else LengthFraming(head.content_length)


def _checked_response(
    status: int, headers: Headers, control: Mapping[str, str], *, is_11: bool
) -> ResponseHead:
    if len(headers) > RESPONSE_NUM_HEADERS:
        raise FramingError("too many headers")
    length = _content_length(control)
    chunked = "transfer-encoding" in control
    if chunked and not is_11:
        raise FramingError("a transfer coding on HTTP/1.0")
    framed = chunked or length is not None or status in {204, 304}
    keep_alive = is_11 and framed and not says_close(control)
    return ResponseHead(status, headers, length, chunked, keep_alive, first_values(headers, control))


def _content_length(control: Mapping[str, str]) -> int | None:
    coding, length = control.get("transfer-encoding"), control.get("content-length")
    if coding is not None:
        if length is not None or coding.lower() != "chunked":
            raise FramingError("an unknown transfer coding, or an ambiguous length")
        return None
    if length is not None and not is_length(length):
        raise FramingError("the length is no number")
    return None if length is None else int(length)
