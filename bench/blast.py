"""The raw client that every server of a storage benchmark gets: plain sockets, signed heads, memory that is there.

It checks the status, the length and nothing else, and keeps its connections. Heads are signed before the clock starts.
"""

import itertools
import selectors
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from storage.client.sdk import Endpoint, sign, url_path
from wire.address import split_address

NUM_CONNECTIONS = 8  # what the issue asks for, and what transfer programs open
HEAD_BYTES = 64 * 1024  # of an answer: no server's head is larger; a small object fits beside it
TIMEOUT_S = 300.0  # a peer that is silent for so long is not slow, it is broken


class Failed(Exception):
    """A server answered with something else than what was timed."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; `data` is empty if the body went into memory of the caller's."""

    status: int
    headers: dict[str, str]
    data: bytes

    def demand(self, *statuses: int) -> "Answer":
        """Itself. Raises: Failed unless the status is one of those."""
        if self.status not in statuses:
            raise Failed(f"the server answered {self.status}: {self.data[:300]!r}")
        return self


def head_of(
    store: Endpoint, method: str, path: str, query: str = "", *, size: int = 0, **headers: str
) -> bytes:
    """A signed request head; `size` is the body's, header names are written with `_` for `-`."""
    fields = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    if method in {"PUT", "POST"}:
        fields = (*fields, ("content-length", str(size)))
    lines = [f"{name}: {value}" for name, value in sign(store, method, path, query, fields)]
    return "\r\n".join([f"{method} {path}{'?' if query else ''}{query} HTTP/1.1", *lines, "", ""]).encode()


def parse_head(raw: bytes) -> tuple[int, dict[str, str]]:
    """Status and lower-case headers of an answer's head."""
    first, *lines = raw.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    return int(first.split(" ", 2)[1]), {name.lower(): value.strip() for name, _, value in pairs}


class Line:
    """One kept connection to one server."""

    def __init__(self, store: Endpoint) -> None:
        self.store = store
        self._socket = socket.create_connection(split_address(store.netloc), TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, head: bytes, body: bytes | memoryview = b"", into: memoryview | None = None) -> Answer:
        """Send one request; its answer's body goes `into` memory of exactly its length. Raises: OSError, Failed."""
        self._socket.sendall(head)
        if body:
            self._socket.sendall(body)
        return self._receive(into)

    def call(self, method: str, path: str, query: str = "", body: bytes = b"", **headers: str) -> Answer:
        """The same, signed now."""
        head = head_of(self.store, method, path, query, size=len(body), **headers)
        return self.ask(head, body)

    def _receive(self, into: memoryview | None) -> Answer:
        data = b""
        while b"\r\n\r\n" not in data:
            more = self._socket.recv(HEAD_BYTES)
            if not more:
                raise Failed("the server closed the connection")
            data += more
        raw, _, rest = data.partition(b"\r\n\r\n")
        status, headers = parse_head(raw)
        length = int(headers.get("content-length", 0))
        fits = into is not None and status < 300 and len(into) == length
        view = into if fits and into is not None else memoryview(bytearray(length))
        view[: len(rest)] = rest
        self._fill(view[len(rest) :])
        return Answer(status, headers, b"" if fits else bytes(view))

    def _fill(self, view: memoryview) -> None:
        while view:
            num_bytes = self._socket.recv_into(view, 0, socket.MSG_WAITALL)
            if not num_bytes:
                raise Failed("the server closed the connection")
            view = view[num_bytes:]


def read_rate(store: Endpoint, bucket: str, key: str, memory: memoryview) -> float:
    """Bytes a second of reading an object of `len(memory)` bytes, an equal range on each connection."""
    path = url_path(bucket, key)
    step = -(-len(memory) // NUM_CONNECTIONS)
    works = []
    for start in range(0, len(memory), step):
        view = memory[start : start + step]
        head = head_of(store, "GET", path, range=f"bytes={start}-{start + len(view) - 1}")
        works.append(lambda line, head=head, view=view: line.ask(head, into=view).demand(200, 206))
    return len(memory) / _together(store, works)


def write_rate(store: Endpoint, jobs: Sequence[tuple[bytes, memoryview]]) -> float:
    """Bytes a second of sending each (head, body) on a connection of its own, all at once."""
    works = [lambda line, head=head, body=body: line.ask(head, body).demand(200) for head, body in jobs]
    return sum(len(body) for _, body in jobs) / _together(store, works)


def _together(store: Endpoint, works: Sequence[Callable[[Line], object]]) -> float:
    """Seconds until every work is done, each on its own open connection and thread. Raises what one raised."""
    lines = [Line(store) for _ in works]
    errors: list[Exception] = []

    def run(work: Callable[[Line], object], line: Line) -> None:
        try:
            work(line)
        except (OSError, Failed) as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=pair) for pair in zip(works, lines, strict=True)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took_s = time.perf_counter() - started
    for line in lines:
        line.__exit__()
    if errors:
        raise errors[0]
    return took_s


def request_rate(store: Endpoint, requests: Sequence[bytes], seconds: float) -> float:
    """Requests a second, answered 200: each connection sends its next when its last is answered.

    One thread and one selector: a thread a connection would spend the server's processor on the client's lock.
    """
    turns = itertools.cycle(requests)
    memory = memoryview(bytearray(HEAD_BYTES))
    num_done = 0
    with selectors.DefaultSelector() as selector:
        sockets = [
            socket.create_connection(split_address(store.netloc), TIMEOUT_S) for _ in range(NUM_CONNECTIONS)
        ]
        for each in sockets:
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(each, selectors.EVENT_READ, bytearray())
            each.sendall(next(turns))
        started = time.perf_counter()
        while (took_s := time.perf_counter() - started) < seconds:
            for key, _ in selector.select(TIMEOUT_S):
                connection = key.fileobj
                assert isinstance(connection, socket.socket)  # noqa: S101 - a type for mypy
                held: bytearray = key.data
                num_bytes = connection.recv_into(memory)
                if not num_bytes:
                    raise Failed("the server closed the connection")
                held += memory[:num_bytes]
                if _is_whole(held):
                    held.clear()
                    num_done += 1
                    connection.sendall(next(turns))
    for each in sockets:
        each.close()
    return num_done / took_s


def _is_whole(held: bytearray) -> bool:
    """Whether a whole answer is there. Raises: Failed unless it is a 200."""
    end = held.find(b"\r\n\r\n")
    if end < 0:
        return False
    status, headers = parse_head(bytes(held[:end]))
    if status != 200:
        raise Failed(f"the server answered {bytes(held[:400])!r}")
    return len(held) >= end + 4 + int(headers.get("content-length", 0))
