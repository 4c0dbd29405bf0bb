"""One keep-alive HTTP/1.1 connection to an OpenAI-compatible API that times the first piece of text.

A piece has arrived when its bytes are in this process: they are read straight off the socket, and what a client
library makes of them afterwards is not the platform's time. A request leaves in one write, as curl sends it.
"""

import json
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from wire.http.http1 import Body, End, ResponseError, ResponseHead, ResponseReader, request_head_bytes

ANSWER_S = 180.0  # longer than any deadline of the platform: its own error arrives first
READ_BYTES = 64 * 1024
RECEIPT = b": nearfield "


class CallFailed(Exception):
    """The API refused, or its stream ended without a piece of text."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One streamed answer. Times in seconds from just before the request was written (or connected)."""

    first_text_s: float
    total_s: float
    text: str
    headers: Mapping[str, str]
    receipts: tuple[dict[str, Any], ...]
    connect_s: float = 0.0
    """Of both times, what the connection took, if it was made for this answer."""


class Caller:
    """Speaks to one address, connecting at the first request. `headers` go with every request."""

    def __init__(self, address: tuple[str, int], headers: Mapping[str, str], ca: str | None = None) -> None:
        host, port = address
        self._headers = (("host", f"{host}:{port}"), *headers.items(), ("content-type", "application/json"))
        self._address = address
        self._tls = ssl.create_default_context(cafile=ca) if ca else None
        self._socket: socket.socket | None = None
        self._reader = ResponseReader()

    def stream(self, path: str, body: Mapping[str, object]) -> Answer:
        """POST `body` with stream=true and read the whole stream. Raises CallFailed, OSError."""
        payload = json.dumps(dict(body) | {"stream": True}).encode()
        headers = (*self._headers, ("content-length", str(len(payload))))
        request = request_head_bytes("POST", path, headers) + payload
        self._reader.start("POST")
        started = time.perf_counter()
        connection = self._socket = self._socket or self._connect()
        connect_s = time.perf_counter() - started
        connection.sendall(request)
        head, pieces = self._read(connection)
        if head.status != 200:
            said = b"".join(data for _, data in pieces)
            raise CallFailed(f"{path} answered {head.status}: {said[:2000]!r}")
        return replace(_answer(path, started, head, pieces), connect_s=connect_s)

    def connect(self) -> None:
        """Connect now, not at the first request. Raises OSError."""
        self._socket = self._socket or self._connect()

    def close(self) -> None:
        """Let the connection go."""
        if self._socket is not None:
            self._socket.close()

    def _connect(self) -> socket.socket:
        connection = socket.create_connection(self._address, ANSWER_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return (
            self._tls.wrap_socket(connection, server_hostname=self._address[0]) if self._tls else connection
        )

    def _read(self, connection: socket.socket) -> tuple[ResponseHead, list[tuple[float, bytes]]]:
        """The head, and each piece of the body with the moment it arrived."""
        head: ResponseHead | None = None
        pieces: list[tuple[float, bytes]] = []
        for arrived, data in _arrivals(connection):
            for event in self._events(data):
                if isinstance(event, ResponseHead):
                    head = event
                elif isinstance(event, Body):
                    pieces.append((arrived, event.data))
                elif isinstance(event, End) and head is not None:
                    return head, pieces
        raise CallFailed("the connection closed inside an answer")

    def _events(self, data: bytes) -> list[ResponseHead | Body | End]:
        try:
            return self._reader.receive(data)
        except ResponseError as error:
            raise CallFailed(str(error)) from error


def _arrivals(connection: socket.socket) -> Iterator[tuple[float, bytes]]:
    while data := connection.recv(READ_BYTES):
        yield time.perf_counter(), data


def _answer(path: str, started: float, head: ResponseHead, pieces: list[tuple[float, bytes]]) -> Answer:
    first_text_s, text, receipts = 0.0, "", list[dict[str, Any]]()
    for arrived, line in _lines(pieces):
        piece = _piece(line)
        if piece and not text:
            first_text_s = arrived - started
        text += piece
        if line.startswith(RECEIPT):
            receipts.append(json.loads(line.removeprefix(RECEIPT)))
    if not text:
        raise CallFailed(f"{path} sent no text")
    return Answer(first_text_s, pieces[-1][0] - started, text, dict(head.headers), tuple(receipts))


def _lines(pieces: list[tuple[float, bytes]]) -> Iterator[tuple[float, bytes]]:
    """Each line of the stream, with the moment its end arrived."""
    rest = b""
    for arrived, data in pieces:
        *lines, rest = (rest + data).split(b"\n")
        yield from ((arrived, line) for line in lines)


def _piece(line: bytes) -> str:
    """The text in one line of a stream; empty for anything else. Raises CallFailed for an error event."""
    if not line.startswith(b"data: ") or line.strip() == b"data: [DONE]":
        return ""
    event = json.loads(line.removeprefix(b"data: "))
    if "error" in event:
        raise CallFailed(f"the stream carried an error: {event['error']}")
    choices = event.get("choices") or [{}]
    piece = choices[0].get("text") or (choices[0].get("delta") or {}).get("content") or ""
    return str(piece)
