"""The strict server side of HTTP/1.1 without I/O: bytes in, events or a Refusal out.

httptools (llhttp) parses a head; this file counts the bytes before it does, and adds the checks that neither
llhttp nor h11 makes (what each lets through was measured: one Host, no Transfer-Encoding on HTTP/1.0, no
encoded slashes or dots, no underscore names, numbers of headers). Bodies are framed by `framing.py`. Whatever
is odd is refused, never repaired: a proxy that repairs is how requests are smuggled.
"""

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

import httptools

from wire.framing import END, Body, ChunkedFraming, End, Framing, FramingError, LengthFraming
from wire.heads import (
    LENGTH,
    METHODS,
    TARGET,
    HeadBuffer,
    Headers,
    HeadFields,
    RequestHead,
    ResponseHead,
    control_fields,
    request_head_bytes,
    response_head_bytes,
    says_close,
    without_hop_headers,
)
from wire.limits import DEFAULT_LIMITS, Limits
from wire.refusal import Refusal
from wire.response import ResponseError, ResponseReader, Unframed

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

NEVER = frozenset({"CONNECT", "TRACE"})  # tunnels and echoes have no place here
_HOST = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_REQUEST_LINE = re.compile(rb"[A-Z]+ [^ ]+ HTTP/([0-9]\.[0-9])")
_ODD_PATH = re.compile(r"%(?:00|2f|2e|5c)|\\|//|/\.\.?(?:/|$)", re.IGNORECASE)
_ODD_BYTE = re.compile(rb"[^\t\r\n\x20-\x7e]")


class RequestGate:
    """The strict server side of one connection: one message at a time.

    After `End` the bytes of a following (pipelined) request stay here; `next_message()` starts on them.
    After a Refusal the gate is spent and the connection must be closed.
    """

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self.limits = limits
        self._head = HeadBuffer(limits.head_bytes)
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
    if _ODD_BYTE.search(raw):
        raise _bad("Header names and values must be visible ASCII.")
    fields = HeadFields()
    parser = httptools.HttpRequestParser(fields)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        raise Refusal(405, "method_not_allowed", "This server does not upgrade connections.") from None
    except httptools.HttpParserError as error:
        raise _bad(f"The request is not HTTP/1.1: {error}.") from None
    return _checked_request(parser.get_method().decode(), fields, int(parser.get_http_version()[2]), limits)


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
    version = _REQUEST_LINE.fullmatch(line)  # llhttp lets two spaces pass
    if version is None:
        raise _bad("The request line must be: METHOD, space, /path, space, HTTP/1.1.")
    if version[1] not in {b"1.0", b"1.1"}:
        raise Refusal(505, "bad_request", "Use HTTP/1.1.")


def _checked_request(method: str, fields: HeadFields, minor: int, limits: Limits) -> RequestHead:
    headers = tuple(fields.headers)
    target = fields.target.decode("latin-1")
    _check_target(target, limits)
    _check_names(headers, limits)
    try:
        control = control_fields(headers)
    except FramingError as error:
        raise _bad(f"{error}.") from None
    _check_host(control.get("host", ""), limits)
    if "upgrade" in control:
        raise Refusal(405, "method_not_allowed", "This server does not upgrade connections.")
    length, chunked = _request_framing(control, minor)
    expect = control.get("expect")
    if expect is not None and expect.lower() != "100-continue":
        raise Refusal(417, "bad_request", "The only expectation served is 100-continue.")
    path, _, query = target.partition("?")
    return RequestHead(
        method=method,
        target=target,
        path=path,
        query=query,
        headers=headers,
        content_length=length,
        chunked=chunked,
        keep_alive=minor == 1 and not says_close(control),
        expect_continue=expect is not None and minor == 1 and (chunked or bool(length)),
        minor=minor,
    )


def _check_target(target: str, limits: Limits) -> None:
    if not TARGET.fullmatch(target):
        raise _bad("The request target must be a path of visible ASCII characters, such as /v1/models.")
    path = target.partition("?")[0]
    if path.startswith(limits.slash_prefixes):
        path = path.replace("%2F", "/").replace("%2f", "/")
    if not limits.encoded_paths and _ODD_PATH.search(path):
        raise _bad("Encoded separators, empty segments and dot segments are not served in paths.")


def _check_names(headers: Headers, limits: Limits) -> None:
    if len(headers) > limits.num_headers:
        raise Refusal(431, "head_too_large", f"More than {limits.num_headers} headers; send fewer.")
    for name, _ in headers:
        if "_" in name and not name.startswith("x-amz-meta-"):
            # CGI and WSGI fold '_' into '-': content_length would be read as content-length behind us.
            raise _bad("Header names with an underscore are not accepted.")


def _check_host(host: str, limits: Limits) -> None:
    if not _HOST.fullmatch(host):
        raise _bad("Exactly one well-formed Host header is needed.")
    if limits.served_hosts is not None and urlsplit("//" + host).hostname not in limits.served_hosts:
        raise _bad("This Host is not served here.")


def _request_framing(control: Mapping[str, str], minor: int) -> tuple[int | None, bool]:
    """(content length or None, chunked). Raises Refusal for every ambiguous combination."""
    coding, length = control.get("transfer-encoding"), control.get("content-length")
    if coding is not None:
        if minor == 0 or length is not None or coding.lower() != "chunked":
            raise _bad("Transfer-Encoding must be just 'chunked', on HTTP/1.1, without Content-Length.")
        return None, True
    if length is not None and not LENGTH.fullmatch(length):
        raise _bad("Content-Length must be one plain number.")
    return (None if length is None else int(length)), False
