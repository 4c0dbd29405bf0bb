"""Message heads of HTTP/1.1: the frozen values, their bytes, and what the two readers share."""

import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Final, NamedTuple, Self

from wire.http.framing import FramingError

Headers = tuple[tuple[str, str], ...]

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
LENGTH_DIGITS = 15  # below 2**53, a petabyte
TARGET = re.compile(r"/[\x21\x22\x24-\x7e]*")  # visible ASCII but '#': fragments are never sent
NAME_CHARS: Final = r"!#$%&'*+.^`|~0-9A-Za-z-"  # RFC 9110's token, without '_'
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


class RequestHead(NamedTuple):
    """A request line and its headers, checked; names are lower-case, values Latin-1 as sent, in order.

    `target` is exactly what was sent, but for the scheme and host of an absolute form; `path` and `query` are its
    two sides of the first '?', still encoded.
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
    values: Mapping[str, str] | None = None  # the first value of each header, for look-ups

    def get(self, name: str) -> str | None:
        """The first value of header `name` (lower-case), or None."""
        return first_value(self.headers, name) if self.values is None else self.values.get(name)

    def with_headers(self, headers: Headers) -> Self:
        """The same head with these headers: `_replace` alone would go on looking them up in the old ones."""
        return self._replace(headers=headers, values=None)


class ResponseHead(NamedTuple):
    """A status line and its headers, in the same form as RequestHead's."""

    status: int
    headers: Headers
    content_length: int | None
    chunked: bool
    keep_alive: bool
    values: Mapping[str, str] | None = None  # the first value of each header, for look-ups

    def get(self, name: str) -> str | None:
        """The first value of header `name` (lower-case), or None."""
        return first_value(self.headers, name) if self.values is None else self.values.get(name)


def first_value(headers: Headers, name: str) -> str | None:
    """The first value of header `name` (lower-case), or None."""
    for key, value in headers:
        if key == name:
            return value
    return None


class HeadBuffer:
    """Collects bytes up to the blank line; counts them before anything is parsed."""

    __slots__ = ("_num_searched", "data", "limit")

    def __init__(self, limit: int) -> None:
        self.data = b""
        self.limit = limit
        self._num_searched = 0

    def take(self, data: bytes) -> tuple[str, bytes] | None:
        """Add `data`; the whole head (Latin-1) and what follows it, once it is there; nothing stays then.

        Raises FramingError, OverflowError.
        """
        seen = self._num_searched
        whole = self.data + data if self.data else data
        if whole[:1] in b"\r\n" and whole:
            raise FramingError("a blank line comes before the message")
        end = whole.find(b"\r\n\r\n", seen, self.limit) + 4
        if end < 4:
            self._look_at_part(whole, whole[seen:])
            return None
        self._num_searched = 0
        self.data = b""
        return whole[:end].decode("latin-1"), whole[end:]

    def _look_at_part(self, whole: bytes, fresh: bytes) -> None:
        if len(whole) >= self.limit:
            raise OverflowError
        if fresh.count(b"\n") > fresh.count(b"\r\n") + fresh.startswith(b"\n"):
            raise FramingError("a line of the head does not end in CR LF")
        self.data = whole
        self._num_searched = max(0, len(whole) - 3)  # the blank line may have begun there


def is_length(value: str) -> bool:
    """True for what Content-Length may be: plain digits, at most LENGTH_DIGITS of them."""
    return value.isascii() and value.isdigit() and len(value) <= LENGTH_DIGITS


_CONTROL = frozenset({"host", "content-length", "transfer-encoding", "connection", "expect", "upgrade"})
UNUSUAL = _CONTROL - {"host", "content-length"}  # where none of these is given, nothing else asks for care
_SINGLE = _CONTROL - {"connection"} | {"authorization", "x-api-key", "content-type"}
_NOT_OF_A_HOP = frozenset({"host", "content-length", "transfer-encoding", "authorization", "x-api-key"})
_FIELD = re.compile(r"([^:]+):([^\r]*)\r\n")


def read_fields(block: str) -> tuple[Headers, Mapping[str, str]]:
    """The headers of `block`, lines that a grammar of ours has matched, and a look-up for those that frame.

    Raises FramingError for a field of _SINGLE that is repeated: two readers could choose differently.
    """
    headers = tuple([(name.lower(), value.strip(" \t")) for name, value in _FIELD.findall(block)])
    control = dict(headers)
    return headers, control if len(control) == len(headers) else _control(headers)


def first_values(headers: Headers, control: Mapping[str, str]) -> Mapping[str, str]:
    """The first value of each header; `control` is what `read_fields` gave beside them."""
    return control if len(control) == len(headers) else dict(reversed(headers))


def _control(headers: Headers) -> dict[str, str]:
    """The same look-up where some header comes twice; its values are joined as a list."""
    control: dict[str, str] = {}
    for name, value in headers:
        if name in control and name in _SINGLE:
            raise FramingError(f"The header {name} must not be repeated")
        control[name] = f"{control[name]},{value}" if name in control else value
    return control


def _tokens(connection: str) -> set[str]:
    return {token.strip().lower() for token in connection.split(",")}


def says_close(control: Mapping[str, str]) -> bool:
    """True if the sender (these are its control fields) closes the connection after this message."""
    return "connection" in control and "close" in _tokens(control["connection"])


def named_for_all(control: Mapping[str, str]) -> set[str]:
    """Fields that Connection calls one hop's own and that are not: who obeys it drops what the next hop needs."""
    return _tokens(control.get("connection", "")) & _NOT_OF_A_HOP


def without_hop_headers(headers: Headers, also: Iterable[str] = ()) -> Headers:
    """`headers` without those that belong to one connection (RFC 9110 7.6.1), those it names, and `also`."""
    given = dict(headers)
    dropped = HOP_HEADERS.union(also)
    if "connection" in given:
        dropped = dropped.union(*[_tokens(value) for name, value in headers if name == "connection"])
    if dropped.isdisjoint(given):
        return headers
    return tuple([pair for pair in headers if pair[0] not in dropped])


def request_head_bytes(method: str, target: str, headers: Headers) -> bytes:
    """A request head as bytes. Raises ValueError if a part would break the framing."""
    if not TARGET.fullmatch(target) or method not in METHODS:
        raise ValueError("the method or target is not one we send")
    return f"{method} {target} HTTP/1.1\r\n{_header_lines(headers)}\r\n".encode("latin-1")


def response_head_bytes(status: int, headers: Headers) -> bytes:
    """A response head as bytes. Raises ValueError if a part would break the framing."""
    return f"HTTP/1.1 {status} {_REASONS.get(status, '')}\r\n{_header_lines(headers)}\r\n".encode("latin-1")


def _header_lines(headers: Headers) -> str:
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
    # One count for all values: a smuggled CR or LF makes the sums differ from the number of headers.
    num = len(headers)
    if lines.count("\r") != num or lines.count("\n") != num or "\0" in lines:
        raise ValueError("a header holds a line end or NUL")
    return lines
