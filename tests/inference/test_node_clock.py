"""When a node's own time begins, and that its answers leave before it keeps its books."""

import asyncio
import socket
from types import SimpleNamespace

import uvicorn
from uvicorn.server import ServerState

from inference import server
from inference.server import BEGAN, AtOnce, Clocked

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: n\r\ncontent-length: 0\r\n\r\n"


class Wire(asyncio.Transport):
    """A connection to `peer`; what is written to itself, as for the end of the loop's turn, goes nowhere."""

    def __init__(self):
        self.own, self.peer = socket.socketpair()
        self.peer.setblocking(False)
        super().__init__({"socket": self.own})

    def is_closing(self):
        return self.own.fileno() < 0

    def get_write_buffer_size(self):
        return 0

    def write(self, data):
        pass

    def resume_reading(self):
        pass

    def close(self):
        self.own.close()

    def read(self):
        """What is there now."""
        try:
            return self.peer.recv(1 << 16)
        except BlockingIOError:
            return b""


async def test_a_nodes_clock_begins_with_each_requests_first_byte(monkeypatch):
    began = asyncio.Queue()

    async def app(scope, _receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})
        began.put_nowait(scope[BEGAN])

    config = uvicorn.Config(app, http=Clocked, loop="none", lifespan="off", log_config=None)
    config.load()
    connection = Clocked(config, ServerState(), {})
    connection.connection_made(wire := Wire())
    for moment in (1.0, 7.0):
        monkeypatch.setattr(server, "time", SimpleNamespace(perf_counter=lambda now=moment: now))
        connection.data_received(HEAD[:9])
        monkeypatch.setattr(server, "time", SimpleNamespace(perf_counter=lambda: 99.0))
        connection.data_received(HEAD[9:])
        assert await began.get() == moment
    connection.connection_lost(None)
    wire.close()
    wire.peer.close()


async def test_an_answer_is_out_in_one_piece_before_its_writer_goes_on():
    wire = Wire()
    way = AtOnce(wire)
    way.write(b"HTTP/1.1 200 OK\r\n\r\n")
    assert wire.read() == b""  # its body is a moment away
    way.write(b"body")
    assert wire.read() == b"HTTP/1.1 200 OK\r\n\r\nbody"
    way.write(b"more")
    assert wire.read() == b"more"
    wire.close()
    wire.peer.close()


async def test_a_head_that_nothing_follows_leaves_with_the_next_turn_or_before_the_end():
    wire = Wire()
    way = AtOnce(wire)
    way.write(b"HTTP/1.1 204 No Content\r\n\r\n")
    await asyncio.sleep(0)
    assert wire.read() == b"HTTP/1.1 204 No Content\r\n\r\n"
    way.write(b"HTTP/1.1 204 No Content\r\n\r\n")
    way.close()
    assert wire.read() == b"HTTP/1.1 204 No Content\r\n\r\n"
    await asyncio.sleep(0)  # nothing is left to be said
    wire.peer.close()
