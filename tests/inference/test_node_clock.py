"""When a node's own time begins: with a request's first byte, before it is parsed and has its turn."""

import asyncio
from types import SimpleNamespace

import uvicorn
from uvicorn.server import ServerState

from inference import server
from inference.server import BEGAN, Clocked

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: n\r\ncontent-length: 0\r\n\r\n"


class Wire(asyncio.Transport):
    """A connection that leads nowhere."""

    def is_closing(self):
        return False

    def write(self, data):
        pass

    def resume_reading(self):
        pass

    def close(self):
        pass


async def test_a_nodes_clock_begins_with_each_requests_first_byte(monkeypatch):
    began = asyncio.Queue()

    async def app(scope, _receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})
        began.put_nowait(scope[BEGAN])

    config = uvicorn.Config(app, http=Clocked, loop="none", lifespan="off", log_config=None)
    config.load()
    connection = Clocked(config, ServerState(), {})
    connection.connection_made(Wire())
    for moment in (1.0, 7.0):
        monkeypatch.setattr(server, "time", SimpleNamespace(perf_counter=lambda now=moment: now))
        connection.data_received(HEAD[:9])
        monkeypatch.setattr(server, "time", SimpleNamespace(perf_counter=lambda: 99.0))
        connection.data_received(HEAD[9:])
        assert await began.get() == moment
    connection.connection_lost(None)
