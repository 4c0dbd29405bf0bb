"""The strict server side of HTTP/1.1 without I/O: bytes in, events or a Refusal out.

One pattern is the grammar of a head: what it does not match is refused, and only then is it asked why. The
checks after it are those that neither llhttp nor h11 makes (what each lets through was measured: one Host, no
Transfer-Encoding on HTTP/1.0, no encoded slashes or dots, no underscore names, numbers of headers). Bodies are
framed by `framing.py`. Whatever is odd is refused, never repaired: a proxy that repairs is how requests are
smuggled.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from wire.http.framing import (
    END,
    NO_BODY,
    Body,
    ChunkedFraming,
    End,
    Framing,
    FramingError,
    LengthFraming,
    few,
)
from wire.http.heads import (
    METHODS,
    NAME_CHARS,
    TARGET,
    UNUSUAL,
    HeadBuffer,
    Headers,
    RequestHead,
    ResponseHead,
    first_values,
    is_length,
    named_for_all,
    read_fields,
    request_head_bytes,
    response_head_bytes,
    says_close,
    without_hop_headers,
)
from wire.http.limits import DEFAULT_LIMITS, Limits
from wire.http.response import ResponseError, ResponseReader, Unframed
from wire.refused.refusal import Refusal

__all__ = [
    "Body",
    "End",
    "Headers",
    "Message",
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
_METHOD = "|".join(sorted(METHODS))
_USER_METADATA = rf"(?i:x-amz-meta-)[{NAME_CHARS}_]+"  # the one place where S3 clients put underscores
_REQUEST = re.compile(
    rf"({_METHOD}) (?:https?://([A-Za-z0-9.:_\[\]-]+))?(/[\x21\x22\x24-\x7e]*) HTTP/1\.([01])\r\n"
    rf"((?:(?:[{NAME_CHARS}]+|{_USER_METADATA}):[\t\x20-\x7e]*\r\n)*)\r\n",
    re.ASCII,
)
_REQUEST_LINE = re.compile(r"[A-Z]+ [^ ]+ HTTP/([0-9]\.[0-9])")
_UNDERSCORE = re.compile(rf"\n[{NAME_CHARS}]*_[{NAME_CHARS}_]*:")
_ODD_PATH = re.compile(r"%(?:00|2f|2e|5c)|\\|//|/\.\.?(?:/|$)", re.IGNORECASE)
_ODD_BYTE = re.compile(r"[^\t\r\n\x20-\x7e]")


class Message(NamedTuple):
    """A head and its whole body, where both came at once and nothing after them: the usual request."""

    head: RequestHead
    body: bytes


Events = list[Message | RequestHead | Body | End]


class RequestGate:
    """The strict server side of one connection: one message at a time.

    After `Message` or `End` the bytes of a following (pipelined) request stay here; `next_message()` starts on them.
    After a Refusal the gate is spent and the connection must be closed.

    Attributes:
        held: bytes that belong to no event yet.
    """

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self.limits = limits
        self.held = HeadBuffer(limits.head_bytes)
        self._framing: Framing | None = None

    @property
    def num_waiting_bytes(self) -> int:
        """Bytes received that belong to no event yet: a partial head, or what follows the current message."""
        return len(self.held.data)

    def hold(self, data: bytes) -> None:
        """Bytes that must wait for the next message."""
        self.held.data += data

    @property
    def num_body_bytes_left(self) -> int:
        """Bytes of the current message's body still to come; 0 if only its end will say."""
        return self._framing.left if isinstance(self._framing, LengthFraming) else 0

    def pass_by(self, num_bytes: int) -> Events:
        """So many of those were read by another way: End if they were the last."""
        if isinstance(self._framing, LengthFraming) and num_bytes:
            self._framing.pass_by(num_bytes)
            return [END] if self._framing.done else []
        return []

    def receive(self, data: bytes) -> Events:
        """The events that `data` completes, up to the end of the current message. Raises Refusal."""
        framing = self._framing
        if framing is None:
            return self._begin(data)
        if framing.done:
            self.held.data += data
            return []
        return self._take_body(framing, data, [])

    def next_message(self) -> Events:
        """Start on the next message with the bytes already here; returns its first events. Raises Refusal."""
        self._framing = None
        return self.receive(b"") if self.held.data else []

    def _begin(self, data: bytes) -> Events:
        taken = self._take_head(data)
        if taken is None:
            return []
        raw, rest = taken
        head = _request_head(raw, self.limits)
        if len(rest) == (head.content_length or 0) and not head.chunked:
            self._framing = NO_BODY
            return [Message(head, rest)]
        framing = self._framing = (
            ChunkedFraming(bounded=True) if head.chunked else LengthFraming(head.content_length or 0)
        )
        return self._take_body(framing, rest, [head])

    def _take_body(self, framing: Framing, data: bytes, events: Events) -> Events:
        try:
            pieces, self.held.data = ([], data) if framing.done else framing.feed(data)
        except FramingError as error:
            raise Refusal(400, "bad_request", f"The body is not well-formed: {error}.") from None
        events += [Body(piece) for piece in few(pieces)]
        if framing.done:
            events.append(END)
        return events

    def _take_head(self, data: bytes) -> tuple[str, bytes] | None:
        try:
            return self.held.take(data)
        except OverflowError:
            message = f"The request line and headers exceed {self.limits.head_bytes} bytes; send fewer."
            raise Refusal(431, "head_too_large", message) from None
        except FramingError as error:
            raise Refusal(400, "bad_request", f"The request is not well-formed: {error}.") from None


def _bad(message: str) -> Refusal:
    return Refusal(400, "bad_request", message)


def _request_head(raw: str, limits: Limits) -> RequestHead:
    """Read and check one whole head (blank line included). Raises Refusal."""
    match = _REQUEST.fullmatch(raw)
    if match is None:
        raise _why_not(raw, limits)
    method, named_host, target, minor, fields = match.groups()
    if len(target) > limits.target_bytes:
        raise _why_not(raw, limits)
    try:
        headers, control = read_fields(fields)
    except FramingError as error:
        raise _bad(f"{error}.") from None
    # The absolute form must be taken (RFC 9112 3.2.2; S3 clients on AWS' C library send it over plain HTTP).
    if named_host is not None and named_host.lower() != control.get("host", "").lower():
        raise _bad("The request target names another host than the Host header.")
    return _checked_request(method, target, headers, control, minor == "1", limits)


def _why_not(raw: str, limits: Limits) -> Refusal:
    """What is wrong with a head that is not of the grammar."""
    try:
        _check_request_line(raw, limits)
    except Refusal as refusal:
        return refusal
    if _ODD_BYTE.search(raw):
        return _bad("Header names and values must be visible ASCII.")
    if _UNDERSCORE.search(raw):
        # CGI and WSGI fold '_' into '-': content_length would be read as content-length behind us.
        return _bad("Header names with an underscore are not accepted.")
    if not TARGET.fullmatch(raw.split(" ", 2)[1]):
        return _bad("The request target must be a path of visible ASCII characters, such as /v1/models.")
    return _bad("Every header line must be NAME: VALUE, unfolded, without a blank before the colon.")


def _check_request_line(raw: str, limits: Limits) -> None:
    """The checks that need only the raw first line: method and length of the target."""
    line = raw[: raw.find("\r\n")]
    method = line.partition(" ")[0]
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
    if version[1] not in {"1.0", "1.1"}:
        raise Refusal(505, "bad_request", "Use HTTP/1.1.")


def _checked_request(
    method: str, target: str, headers: Headers, control: Mapping[str, str], is_11: bool, limits: Limits
) -> RequestHead:
    path, _, query = target.partition("?")
    _check_path(path, limits)
    if len(headers) > limits.num_headers:
        raise Refusal(431, "head_too_large", f"More than {limits.num_headers} headers; send fewer.")
    check_host(control.get("host", ""), limits)
    length = _content_length(control.get("content-length"))
    values = first_values(headers, control)
    if UNUSUAL.isdisjoint(control):
        return RequestHead(
            method, target, path, query, headers, length, False, is_11, False, int(is_11), values
        )
    if "upgrade" in control:
        raise Refusal(405, "method_not_allowed", "This server does not upgrade connections.")
    if named := named_for_all(control):
        raise _bad(f"Connection must not name {min(named)}, which is not for one hop alone.")
    chunked = _is_chunked(control, is_11=is_11)
    expect = control.get("expect")
    if expect is not None and expect.lower() != "100-continue":
        raise Refusal(417, "bad_request", "The only expectation served is 100-continue.")
    keep_alive = is_11 and not says_close(control)
    waits = expect is not None and is_11  # for a 100, which an empty body gets too: see Exchange._open
    return RequestHead(
        method, target, path, query, headers, length, chunked, keep_alive, waits, int(is_11), values
    )


def _check_path(path: str, limits: Limits) -> None:
    if limits.encoded_paths or not ("%" in path or "/." in path or "//" in path or "\\" in path):
        return  # the usual path costs no pattern
    if path.startswith(limits.slash_prefixes):
        path = path.replace("%2F", "/").replace("%2f", "/")
    if _ODD_PATH.search(path):
        raise _bad("Encoded separators, empty segments and dot segments are not served in paths.")


def check_host(host: str, limits: Limits) -> None:
    """Raises Refusal for a Host that is not one, or is not served now."""
    if not _HOST.fullmatch(host):
        raise _bad("Exactly one well-formed Host header is needed.")
    if limits.served_hosts is not None and urlsplit("//" + host).hostname not in limits.served_hosts:
        raise _bad("This Host is not served here.")


def _content_length(said: str | None) -> int | None:
    if said is None:
        return None
    if not is_length(said):
        raise _bad("Content-Length must be one plain number.")
    return int(said)


def _is_chunked(control: Mapping[str, str], *, is_11: bool) -> bool:
    """Raises Refusal for every ambiguous combination."""
    coding = control.get("transfer-encoding")
    if coding is None:
        return False
    if not is_11 or "content-length" in control or coding.lower() != "chunked":
        raise _bad("Transfer-Encoding must be just 'chunked', on HTTP/1.1, without Content-Length.")
    return True
