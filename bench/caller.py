"""One keep-alive HTTP/1.1 connection to an OpenAI-compatible API that times the first piece of text."""

import http.client
import json
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ANSWER_S = 180.0  # longer than any deadline of the platform: its own error arrives first


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


class Caller:
    """Speaks to one address. `headers` go with every request."""

    def __init__(self, address: tuple[str, int], headers: Mapping[str, str], ca: str | None = None) -> None:
        self._headers = dict(headers) | {"content-type": "application/json"}
        if ca:
            context = ssl.create_default_context(cafile=ca)
            self._connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                *address, context=context, timeout=ANSWER_S
            )
        else:
            self._connection = http.client.HTTPConnection(*address, timeout=ANSWER_S)

    def stream(self, path: str, body: Mapping[str, object]) -> Answer:
        """POST `body` with stream=true and read the whole stream. Raises CallFailed, OSError."""
        payload = json.dumps(dict(body) | {"stream": True}).encode()
        started = time.perf_counter()
        self._connection.request("POST", path, payload, self._headers)
        response = self._connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        if response.status != 200:
            raise CallFailed(f"{path} answered {response.status}: {response.read(2_000)!r}")
        first_text_s, text, receipts = 0.0, "", list[dict[str, Any]]()
        while line := response.readline():
            piece = _piece(line)
            if piece and not text:
                first_text_s = time.perf_counter() - started
            text += piece
            if line.startswith(b": nearfield "):
                receipts.append(json.loads(line.removeprefix(b": nearfield ")))
        if not text:
            raise CallFailed(f"{path} sent no text")
        return Answer(first_text_s, time.perf_counter() - started, text, headers, tuple(receipts))

    def close(self) -> None:
        """Let the connection go."""
        self._connection.close()


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
