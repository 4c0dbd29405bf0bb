"""An endpoint that takes a known time to the first token: what a client measures beyond it is the client's own.

`python -m bench.clients.metronome CERTIFICATE KEY` prints its port and answers any POST with the stream of a chat,
whose first piece of text is written `FIRST_S` after the request's last byte was read.
"""

import asyncio
import json
import ssl
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

FIRST_S = 0.010
NUM_TOKENS = 16
GAP_S = 0.003  # between tokens: both clients keep up with it
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EMPTY = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


def _chunk(data: str) -> bytes:
    event = f"data: {data}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(event), event)


def _event(choice: Mapping[str, Any] | None, **more: Any) -> bytes:
    choices = [] if choice is None else [{"index": 0, "delta": choice, "finish_reason": None}]
    head = {"id": "chatcmpl-0", "object": "chat.completion.chunk", "created": 0, "model": "metronome"}
    return _chunk(json.dumps(head | {"choices": choices} | more))


OPENING = _event({"role": "assistant", "content": ""})


def _ending() -> Iterator[bytes]:
    usage = {"prompt_tokens": 8, "completion_tokens": NUM_TOKENS, "total_tokens": 8 + NUM_TOKENS}
    yield _event(None, usage=usage)
    yield _chunk("[DONE]")
    yield b"0\r\n\r\n"


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection's requests, until its client goes."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            _, found, rest = head.partition(b"content-length:")
            await reader.readexactly(int(rest.split(b"\r\n", 1)[0]) if found else 0)
            read_s = time.perf_counter()
            if head.startswith(b"get "):
                writer.write(EMPTY)
            else:
                await _stream(writer, read_s)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def _stream(writer: asyncio.StreamWriter, read_s: float) -> None:
    writer.write(HEAD + OPENING)
    await asyncio.sleep(max(0.0, read_s + FIRST_S - time.perf_counter()))
    for _ in range(NUM_TOKENS):
        writer.write(_event({"content": "tick "}))
        await asyncio.sleep(GAP_S)
    writer.writelines(_ending())
    await writer.drain()


async def _main(certificate: str, key: str) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
