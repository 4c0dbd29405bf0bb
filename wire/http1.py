"""HTTP/1.1 without I/O: bytes in, events or an error out; and heads as bytes.

httptools (llhttp) parses a head; this file counts the bytes before it does, and adds the checks that neither
llhttp nor h11 makes (what each lets through was measured: one Host, no Transfer-Encoding on HTTP/1.0, no
encoded slashes or dots, no underscore names, numbers of headers). Bodies are framed by `framing.py`. Whatever
is odd is refused, never repaired: a proxy that repairs is how requests are smuggled.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

import httptools

from wire.framing import END, Body, ChunkedFraming, End, EofFraming, Framing, FramingError, LengthFraming
from wire.limits import DEFAULT_LIMITS, Limits
from wire.refusal import Refusal

__all__ = [
    "Body",
    "End",
    "Headers",
    "RequestGate",
    "RequestHead",
    "ResponseError",
    "ResponseHead",
    "ResponseReader",
    "Unframed",
    "request_head_bytes",
    "response_head_bytes",
    "without_hop_headers",
]

Headers = tuple[tuple[str, str], ...]

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
NEVER = frozenset({"CONNECT", "TRACE"})  # tunnels and echoes have no place here
RESPONSE_HEAD_BYTES = 64 * 1024  # our own hops send under 4 KiB; S3 user metadata may add 8
RESPONSE_NUM_HEADERS = 128
HOP_HEADERS = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "expect",
    }
)
_REASONS = {int(status): status.phrase for status in HTTPStatus}
_LENGTH = re.compile(r"[0-9]{1,15}")  # 15 digits: below 2**53, a petabyte
_HOST = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_TARGET = re.compile(r"/[\x21\x22\x24-\x7e]*")  # visible ASCII but '#': fragments are never sent
_ODD_PATH = re.compile(r"%(?:00|2f|2e|5c)|\\|//|/\.\.?(?:/|$)", re.IGNORECASE)
_VALUE = re.compile(r"[\t\x20-\x7e]*")


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request line and its headers, checked; names are lower-case, values Latin-1 as sent, in order.

    `target` is exactly what was sent; `path` and `query` are its two sides of the first '?', still encoded.
    """

    method: str
    target: str
    path: str
    query: str
    headers: Headers
    content_length: int | None
    chunked: bool
    keep_alive: bool
    expect_continue: bool
    minor: int = 1  # HTTP/1.minor

    def get(self, name: str) -> str | None:
        """The first value of header `name` (lower-case), or None."""
        return next((value for key, value in self.headers if key == name), None)


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """A status line and its headers, in the same form as RequestHead's."""

    status: int
    reason: str
    headers: Headers
    content_length: int | None
    chunked: bool
    keep_alive: bool

    def get(self, name: str) -> str | None:
        """The first value of header `name` (lower-case), or None."""
        return next((value for key, value in self.headers if key == name), None)


class ResponseError(ValueError):
    """An upstream's answer is malformed: nothing of it can be trusted, its connection is not used again."""


class _HeadFields:
    """What httptools calls while it parses one head."""

    __slots__ = ("headers", "reason", "target")

    def __init__(self) -> None:
        self.target = b""
        self.reason = b""
        self.headers: list[tuple[str, str]] = []

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_status(self, reason: bytes) -> None:
        self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))


class _HeadBuffer:
    """Collects bytes up to the blank line; counts them before anything is parsed."""

    __slots__ = ("data", "limit")

    def __init__(self, limit: int) -> None:
        self.data = b""
        self.limit = limit

    def take(self, data: bytes) -> bytes | None:
        """Add `data`; the whole head once it is there, the rest stays. Raises FramingError, OverflowError."""
        seen = max(0, len(self.data) - 3)
        whole = self.data = self.data + data if self.data else data
        end = whole.find(b"\r\n\r\n", seen, self.limit)
        if end < 0:
            if len(whole) >= self.limit:
                raise OverflowError
            fresh = whole[seen:]
            bare = fresh.count(b"\n") > fresh.count(b"\r\n") + fresh.startswith(b"\n")
            if bare or whole.startswith((b"\r", b"\n")):
                raise FramingError("a line of the head does not end in CR LF")
            return None
        self.data = whole[end + 4 :]
        return whole[: end + 4]


class RequestGate:
    """The strict server side of one connection: one message at a time.

    After `End` the bytes of a following (pipelined) request stay here; `next_message()` starts on them.
    After a Refusal the gate is spent and the connection must be closed.
    """

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self.limits = limits
        self._head = _HeadBuffer(limits.head_bytes)
        self._framing: Framing | None = None

    @property
    def num_waiting_bytes(self) -> int:
        """Bytes received that belong to no event yet: a partial head, or what follows the current message."""
        return len(self._head.data)

    def receive(self, data: bytes) -> list[RequestHead | Body | End]:
        """The events that `data` completes, up to the End of the current message. Raises Refusal."""
        events: list[RequestHead | Body | End] = []
        framing = self._framing
        if framing is not None and framing.done:
            self._head.data += data
            return events
        if framing is None:
            raw = self._take_head(data)
            if raw is None:
                return events
            head = _request_head(raw, self.limits)
            framing = self._framing = (
                ChunkedFraming() if head.chunked else LengthFraming(head.content_length or 0)
            )
            events.append(head)
            data, self._head.data = self._head.data, b""
        try:
            pieces, rest = ([], data) if framing.done else framing.feed(data)
        except FramingError as error:
            raise Refusal(400, "bad_request", f"The body is not well-formed: {error}.") from None
        events.extend(map(Body, pieces))
        if framing.done:
            self._head.data = rest
            events.append(END)
        return events

    def next_message(self) -> list[RequestHead | Body | End]:
        """Start on the next message with the bytes already here; returns its first events. Raises Refusal."""
        self._framing = None
        return self.receive(b"") if self._head.data else []

    def _take_head(self, data: bytes) -> bytes | None:
        try:
            return self._head.take(data)
        except OverflowError:
            message = f"The request line and headers exceed {self.limits.head_bytes} bytes; send fewer."
            raise Refusal(431, "head_too_large", message) from None
        except FramingError as error:
            raise Refusal(400, "bad_request", f"The request is not well-formed: {error}.") from None


def _bad(message: str) -> Refusal:
    return Refusal(400, "bad_request", message)


def _request_head(raw: bytes, limits: Limits) -> RequestHead:
    """Parse and check one whole head (blank line included). Raises Refusal."""
    _check_request_line(raw, limits)
    fields = _HeadFields()
    parser = httptools.HttpRequestParser(fields)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        raise Refusal(405, "method_not_allowed", "This server does not upgrade connections.") from None
    except httptools.HttpParserError as error:
        raise _bad(f"The request is not HTTP/1.1: {error}.") from None
    version = parser.get_http_version()
    if version not in {"1.0", "1.1"}:
        raise Refusal(505, "bad_request", "Use HTTP/1.1.")
    return _checked_request(parser.get_method().decode(), fields, int(version[2]), limits)


def _check_request_line(raw: bytes, limits: Limits) -> None:
    """The checks that need only the raw first line: method and length of the target."""
    line = raw[: raw.find(b"\r\n")]
    method = line.partition(b" ")[0].decode("latin-1")
    if method in NEVER:
        raise Refusal(405, "method_not_allowed", f"{method} is not served here.")
    if method not in METHODS:
        raise Refusal(
            501, "method_not_allowed", "Unknown method; use one of " + ", ".join(sorted(METHODS)) + "."
        )
    if len(line) > limits.target_bytes + len(method) + len("  HTTP/1.1"):
        raise Refusal(414, "bad_request", f"The request target exceeds {limits.target_bytes} bytes.")


def _checked_request(method: str, fields: _HeadFields, minor: int, limits: Limits) -> RequestHead:
    headers = tuple(fields.headers)
    target = fields.target.decode("latin-1")
    _check_target(target, limits)
    _check_headers(headers, limits)
    _check_host(headers, limits)
    length, chunked = _request_framing(headers, minor)
    expect = _single(headers, "expect")
    if expect is not None and expect.lower() != "100-continue":
        raise Refusal(417, "bad_request", "The only expectation served is 100-continue.")
    if any(name == "upgrade" for name, _ in headers):
        raise Refusal(405, "method_not_allowed", "This server does not upgrade connections.")
    path, _, query = target.partition("?")
    return RequestHead(
        method=method,
        target=target,
        path=path,
        query=query,
        headers=headers,
        content_length=length,
        chunked=chunked,
        keep_alive=minor == 1 and not _says_close(headers),
        expect_continue=expect is not None and minor == 1 and (chunked or bool(length)),
        minor=minor,
    )


def _check_target(target: str, limits: Limits) -> None:
    if not _TARGET.fullmatch(target):
        raise _bad("The request target must be a path of visible ASCII characters, such as /v1/models.")
    if not limits.encoded_paths and _ODD_PATH.search(target.partition("?")[0]):
        raise _bad("Encoded separators, empty segments and dot segments are not served in paths.")


def _check_headers(headers: Headers, limits: Limits) -> None:
    if len(headers) > limits.num_headers:
        raise Refusal(431, "head_too_large", f"More than {limits.num_headers} headers; send fewer.")
    for name, value in headers:
        if "_" in name and not name.startswith("x-amz-meta-"):
            # CGI and WSGI fold '_' into '-': content_length would be read as content-length behind us.
            raise _bad("Header names with an underscore are not accepted.")
        if not _VALUE.fullmatch(value):
            raise _bad("Header values must be visible ASCII.")


def _check_host(headers: Headers, limits: Limits) -> None:
    hosts = [value for name, value in headers if name == "host"]
    if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
        raise _bad("Exactly one well-formed Host header is needed.")
    if limits.served_hosts is not None and urlsplit("//" + hosts[0]).hostname not in limits.served_hosts:
        raise _bad("This Host is not served here.")


def _request_framing(headers: Headers, minor: int) -> tuple[int | None, bool]:
    """(content length or None, chunked). Raises Refusal for every ambiguous combination."""
    codings = [value for name, value in headers if name == "transfer-encoding"]
    length = _single(headers, "content-length")
    if codings:
        if minor == 0 or length is not None or len(codings) > 1 or codings[0].lower() != "chunked":
            raise _bad("Transfer-Encoding must be just 'chunked', on HTTP/1.1, without Content-Length.")
        return None, True
    if length is not None and not _LENGTH.fullmatch(length):
        raise _bad("Content-Length must be one plain number.")
    return (None if length is None else int(length)), False


def _single(headers: Headers, name: str) -> str | None:
    values = [value for key, value in headers if key == name]
    if len(values) > 1:
        raise _bad(f"The header {name} must not be repeated.")
    return values[0] if values else None


def _connection_tokens(headers: Headers) -> set[str]:
    return {
        token.strip().lower() for name, value in headers if name == "connection" for token in value.split(",")
    }


def _says_close(headers: Headers) -> bool:
    return "close" in _connection_tokens(headers)


def without_hop_headers(headers: Headers, also: Iterable[str] = ()) -> Headers:
    """`headers` without those that belong to one connection (RFC 9110 7.6.1), those it names, and `also`."""
    dropped = HOP_HEADERS | _connection_tokens(headers) | frozenset(also)
    return tuple((name, value) for name, value in headers if name not in dropped)


class Unframed(Exception):
    """The connection ended inside an answer."""


class ResponseReader:
    """The client side of one connection: `start(method)` before each request, then bytes in, events out."""

    def __init__(self) -> None:
        self._head = _HeadBuffer(RESPONSE_HEAD_BYTES)
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
        events: list[ResponseHead | Body | End] = []
        try:
            while self._framing is None:
                head = self._take_head(data)
                data = b""
                if head is None:
                    return events
                if head.status >= 200:
                    events.append(head)
                    self._framing = self._frame(head)
                    data, self._head.data = self._head.data, b""
            self._take_body(data, events)
        except (FramingError, OverflowError) as error:
            raise ResponseError(f"the answer is malformed: {error}") from None
        return events

    def receive_eof(self) -> list[ResponseHead | Body | End]:
        """The peer closed: the End of an answer framed so. Raises Unframed if it cuts an answer short."""
        if isinstance(self._framing, EofFraming):
            self._framing = LengthFraming(0)
            return [END]
        raise Unframed("the connection ended inside an answer")

    def _take_body(self, data: bytes, events: list[ResponseHead | Body | End]) -> None:
        framing = self._framing
        if framing is None:
            return
        if framing.done and not events:
            raise FramingError("bytes after the answer")
        pieces, rest = ([], data) if framing.done else framing.feed(data)
        events.extend(map(Body, pieces))
        if framing.done:
            self._head.data = rest
            events.append(END)

    def _take_head(self, data: bytes) -> ResponseHead | None:
        raw = self._head.take(data)
        if raw is None:
            return None
        fields = _HeadFields()
        parser = httptools.HttpResponseParser(fields)
        try:
            parser.feed_data(raw)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise FramingError(str(error)) from None
        head = _checked_response(parser.get_status_code(), parser.get_http_version(), fields)
        if head.status == 101:
            raise FramingError("an upgrade nobody asked for")
        self.continued = self.continued or head.status == 100
        return head

    def _frame(self, head: ResponseHead) -> Framing:
        if self._method == "HEAD" or head.status in {204, 304}:
            return LengthFraming(0)
        if head.chunked:
            return ChunkedFraming()
        return EofFraming() if head.content_length is None else LengthFraming(head.content_length)


def _checked_response(status: int, version: str, fields: _HeadFields) -> ResponseHead:
    headers = tuple(fields.headers)
    lengths = [value for name, value in headers if name == "content-length"]
    codings = [value for name, value in headers if name == "transfer-encoding"]
    if (
        len(lengths) + len(codings) > 1
        or len(headers) > RESPONSE_NUM_HEADERS
        or version not in {"1.0", "1.1"}
    ):
        raise FramingError("ambiguous length, or too many headers")
    if (codings and codings[0].lower() != "chunked") or (lengths and not _LENGTH.fullmatch(lengths[0])):
        raise FramingError("unknown transfer coding or length")
    framed = bool(lengths or codings) or status in {204, 304}
    keep_alive = version == "1.1" and framed and not _says_close(headers)
    length = int(lengths[0]) if lengths else None
    return ResponseHead(status, fields.reason.decode("latin-1"), headers, length, bool(codings), keep_alive)


def request_head_bytes(method: str, target: str, headers: Headers) -> bytes:
    """A request head as bytes. Raises ValueError if a part would break the framing."""
    if not _TARGET.fullmatch(target) or method not in METHODS:
        raise ValueError("the method or target is not one we send")
    return f"{method} {target} HTTP/1.1\r\n{_header_lines(headers)}\r\n".encode("latin-1")


def response_head_bytes(status: int, headers: Headers) -> bytes:
    """A response head as bytes. Raises ValueError if a part would break the framing."""
    return f"HTTP/1.1 {status} {_REASONS.get(status, '')}\r\n{_header_lines(headers)}\r\n".encode("latin-1")


def _header_lines(headers: Headers) -> str:
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
    # One count for all values: a smuggled CR or LF makes the sums differ from the number of headers.
    if lines.count("\r") != len(headers) or lines.count("\n") != len(headers) or "\0" in lines:
        raise ValueError("a header holds a line end or NUL")
    return lines
