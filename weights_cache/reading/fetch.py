"""Ranged reads from an S3 store straight into the caller's memory.

One reader is one keep-alive connection, used by one thread. The answer's body goes from the socket into the
given view with `recv_into` and nothing in between: on a plain socket one system call fills a whole extent
(MSG_WAITALL), which measured 1.3-1.9x the rate of reading piece by piece, and the kernel wakes the reader only
when there is something to copy (SO_RCVLOWAT). One request may fill several extents
in turn, each of which the caller checks before the next is filled. Every range carries If-Match with the entity
tag of the first answer, so an object that changes under a load is noticed; what the bytes are worth is the
caller's check.
"""

import re
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from storage.client.sdk import Endpoint, sign
from weights_cache.reading.patience import STALL_S

Headers = tuple[tuple[str, str], ...]
Signer = Callable[[Endpoint, str, str, str, Headers], Headers]

BLOB_BUCKET = "nearfield-blobs"  # in every region's store; the key is the BLAKE3 of the file
CONNECT_S = 2.0  # a store of the own region answers in milliseconds or is down
TICK_S = 0.25  # how long one receive may wait before the stall is looked at
WAKE_BYTES = (
    256 << 10
)  # a reader that is woken for each segment costs itself and the store a sixth of their time
MAX_HEAD_BYTES = 16 << 10  # as wire's limit for a head
FIRST_RECEIVE_BYTES = 4 << 10  # holds any S3 head; what follows the head in it is copied once
RETRYABLE = frozenset({408, 412, 425, 429, 500, 502, 503, 504})  # 412: the tag is forgotten and read anew
FRAMING = frozenset({"content-length", "content-range", "transfer-encoding"})  # never said twice differently

_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d)(?: [^\r\n]*)?\Z")
_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(?:\d{1,19}|\*)\Z")


def blob_path(digest: str) -> str:
    """The URL path of the file with this BLAKE3 in any region's store."""
    return f"/{BLOB_BUCKET}/{digest}"


class ReadError(Exception):
    """One read failed. `code` says how; `retryable` whether the same read may succeed a moment later."""

    def __init__(self, code: str, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.code = code
        self.retryable = retryable


class RangeReader(Protocol):
    """Fills memory from an object. One thread uses one reader."""

    def read_into(self, path: str, offset: int, view: memoryview) -> None:
        """Fill `view` with the bytes of `path` (`/bucket/key`) from `offset`.

        Raises ReadError; what the view holds is then undefined.
        """
        ...

    def read_run(self, path: str, offset: int, num_bytes: int, views: Iterator[memoryview]) -> None:
        """Fill the `num_bytes` of `views` with the bytes of `path` from `offset`, in one request.

        A view is filled whole before the next one is asked for; the first is asked for once the answer is known to
        be right. Raises ReadError, and what `views` raises.
        """
        ...

    def close(self) -> None:
        """Let the connection go."""
        ...


@dataclass(frozen=True, slots=True)
class _Head:
    status: int
    fields: dict[str, str]
    rest: bytes


class HttpReader:
    """A RangeReader over HTTP/1.1, plain or TLS, each request signed.

    `etags` (path -> entity tag) is shared by the readers of one load; it is filled from the first answers.
    """

    def __init__(
        self,
        store: Endpoint,
        etags: MutableMapping[str, str] | None = None,
        *,
        signer: Signer = sign,
        stall_s: float = STALL_S,
    ) -> None:
        self._store, self._signer, self._stall_s = store, signer, stall_s
        self._etags = {} if etags is None else etags
        self._tls = ssl.create_default_context(cafile=store.ca) if store.url.startswith("https:") else None
        self._socket: socket.socket | None = None

    def read_into(self, path: str, offset: int, view: memoryview) -> None:
        """Fill `view` from `offset` of `path`. Raises ReadError."""
        self.read_run(path, offset, len(view), iter((view,)))

    def read_run(self, path: str, offset: int, num_bytes: int, views: Iterator[memoryview]) -> None:
        """Fill `views`, one after another. Raises ReadError, and what `views` raises."""
        whole = False
        try:
            connection, head = self._ask(path, offset, num_bytes)
            with _as_read_errors(path):
                _read_body(connection, head.rest, num_bytes, views, self._stall_s)
            whole = head.fields.get("connection", "").lower() != "close"
        finally:
            if not whole:
                self.close()

    def close(self) -> None:
        """Let the connection go."""
        if self._socket:
            self._socket.close()
            self._socket = None

    def _ask(self, path: str, offset: int, length: int) -> tuple[socket.socket, _Head]:
        """The connection that answers, and the answer's head. Raises ReadError."""
        if self._socket is not None:
            try:
                return self._exchange(path, offset, length)
            except ReadError as error:
                if error.code != "closed":
                    raise
                self.close()  # the store had closed the idle connection: a fresh one, at once
        return self._exchange(path, offset, length)

    def _exchange(self, path: str, offset: int, length: int) -> tuple[socket.socket, _Head]:
        with _as_read_errors(path):
            connection = self._socket = self._socket or _dial(self._store, self._tls)
            connection.sendall(self._request(path, offset, length))
            head = _read_head(connection, self._stall_s)
        self._check(head, path, offset, length)
        return connection, head

    def _request(self, path: str, offset: int, length: int) -> bytes:
        headers: Headers = (("range", f"bytes={offset}-{offset + length - 1}"),)
        if path in self._etags:
            headers += (("if-match", f'"{self._etags[path]}"'),)
        signed = self._signer(self._store, "GET", path, "", headers)
        lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in signed), "", ""]
        return "\r\n".join(lines).encode("latin-1")

    def _check(self, head: _Head, path: str, offset: int, length: int) -> None:
        """The head answers exactly the range that was asked for. Raises ReadError."""
        if head.status == 412:
            self._etags.pop(path, None)
            raise ReadError("changed", f"{path} changed while it was read", retryable=True)
        if head.status not in {200, 206}:
            retryable = head.status in RETRYABLE
            raise ReadError(f"status_{head.status}", f"{path} answered {head.status}", retryable=retryable)
        found = _RANGE.match(head.fields.get("content-range", ""))
        begins = int(found[1]) if found else 0
        ends = int(found[2]) if found else length - 1
        whole = head.status == 200 and offset == 0
        if (found is None and not whole) or (begins, ends) != (offset, offset + length - 1):
            raise ReadError("wrong_range", f"{path} answered another range than asked", retryable=True)
        if head.fields.get("content-length") != str(length) or "transfer-encoding" in head.fields:
            raise ReadError("wrong_length", f"{path} answered another length than asked", retryable=True)
        etag = head.fields.get("etag", "").strip('"')
        if etag:
            self._etags.setdefault(path, etag)


@contextmanager
def _as_read_errors(path: str) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise ReadError("timeout", f"{path}: {error or 'timed out'}", retryable=True) from error
    except OSError as error:
        code = "closed" if isinstance(error, ConnectionError) else "unreachable"
        raise ReadError(code, f"{path}: {error}", retryable=True) from error


def _dial(store: Endpoint, tls: ssl.SSLContext | None) -> socket.socket:
    url = urlsplit(store.url)
    address = (url.hostname or "", url.port or (443 if tls else 80))
    connection = socket.create_connection(address, CONNECT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if tls:
        # The whole handshake, several ways there and back, has the time of a connection.
        secured = tls.wrap_socket(connection, server_hostname=url.hostname)
        secured.settimeout(TICK_S)
        return secured
    # Python's own timeout makes a socket non-blocking, which turns MSG_WAITALL off: the kernel keeps time.
    connection.settimeout(None)
    tick = struct.pack("ll", 0, int(TICK_S * 1e6))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, tick)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, tick)
    return connection


def _read_head(connection: socket.socket, stall_s: float) -> _Head:
    data = b""
    while (end := data.find(b"\r\n\r\n")) < 0:
        if len(data) > MAX_HEAD_BYTES:
            raise ReadError("not_http", "the store's answer has no end of its head", retryable=False)
        data += _receive(connection, stall_s)
    return _Head(*parsed_head(data[:end]), data[end + 4 :])


def _receive(connection: socket.socket, stall_s: float) -> bytes:
    received = bytearray(FIRST_RECEIVE_BYTES)
    num_bytes = _fill_some(connection, memoryview(received), stall_s, 0)
    return bytes(received[:num_bytes])


def parsed_head(head: bytes) -> tuple[int, dict[str, str]]:
    """(status, headers) of an answer's head without its blank line. Raises ReadError."""
    first, *lines = head.split(b"\r\n")
    status = _STATUS.match(first)
    if not status:
        raise ReadError("not_http", f"the store answered {first[:40]!r}", retryable=False)
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.decode("latin-1").partition(":")
        name, value = name.lower(), value.strip()
        if not colon or (fields.setdefault(name, value) != value and name in FRAMING):
            raise ReadError("not_http", "the store's answer has a broken head", retryable=False)
    return int(status[1]), fields


def _read_body(
    connection: socket.socket, rest: bytes, num_bytes: int, views: Iterator[memoryview], stall_s: float
) -> None:
    """`rest` is what came with the head of the `num_bytes`."""
    flags = 0 if isinstance(connection, ssl.SSLSocket) else socket.MSG_WAITALL
    left = num_bytes - len(rest)
    dozes = _doze(connection, flags, left)
    for view in views:
        reached = min(len(rest), len(view))
        view[:reached], rest = rest[:reached], rest[reached:]
        while reached < len(view):
            if dozes and left <= WAKE_BYTES:
                dozes = _doze(connection, flags, 0)
            end = reached + left - (WAKE_BYTES if dozes else 0)
            received = _fill_some(connection, view[reached:end], stall_s, flags)
            reached, left = reached + received, left - received
    if rest:
        raise ReadError("wrong_length", "more bytes came than were announced", retryable=True)


def _doze(connection: socket.socket, flags: int, left: int) -> bool:
    """Whether the kernel wakes the reader for some bytes at once only; for each if no more than those are `left`."""
    if not flags:
        return False
    dozes = left > WAKE_BYTES
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, WAKE_BYTES if dozes else 1)
    return dozes


def _fill_some(connection: socket.socket, view: memoryview, stall_s: float, flags: int) -> int:
    """At least one byte into `view`. TimeoutError after `stall_s` without one, ConnectionError at the end."""
    deadline = time.monotonic() + stall_s
    while True:
        try:
            num_bytes = connection.recv_into(view, 0, flags)
        except (BlockingIOError, TimeoutError) as error:
            if time.monotonic() >= deadline:
                raise TimeoutError(f"no byte for {stall_s:g} s") from error
            continue
        if not num_bytes:
            raise ConnectionResetError("the store closed the connection")
        return num_bytes
