"""Large bodies past the loop: exact, with nothing of the next request, and no thread for who does not keep sending."""

import asyncio
import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.wire.test_serve import Client, serving
from wire.http.http1 import End, Message, RequestGate
from wire.http.limits import Limits
from wire.listener.line import Disconnected

SIZE = 24 * 2**20 + 12_345
DATA = os.urandom(2**20) * (SIZE // 2**20) + os.urandom(12_345)
PUT = b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % SIZE
WAIT_S = 30  # of a wait that must end; none should take a second


@pytest.fixture
def pool():
    """One thread: whoever holds it keeps everybody else waiting."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


def num_open():
    return len(list(Path("/proc/self/fd").iterdir()))


async def until(true):
    """Wait until `true()`."""
    async with asyncio.timeout(WAIT_S):
        while not true():  # noqa: ASYNC110 - of a thread's doing
            await asyncio.sleep(0.01)


class Taker:
    """A handler that takes a body both ways, and answers with how many bytes it has.

    With `waits` it gives the peer time to get ahead.
    """

    def __init__(self, pool, work=lambda _: None, *, waits=True):
        self.pool, self.work, self.waits = pool, work, waits
        self.got = bytearray()
        self.threads = set()
        self.num_ahead = 0
        self.ended = asyncio.Event()
        self.error = None

    async def __call__(self, exchange):
        try:
            async for piece in exchange.body():
                self.got += piece
                await self._behind(exchange)
                await exchange.read_ahead(self.pool, self.take)
            await exchange.respond(200, (), b"%d" % len(self.got))
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.ended.set()

    async def _behind(self, exchange):
        """Wait until the peer has sent more than is taken, or nothing comes."""
        for _ in range(20 * self.waits):
            if exchange.peer_is_ahead or exchange.body_complete:
                return
            await asyncio.sleep(0.005)

    def take(self, data):
        self.threads.add(threading.current_thread())
        self.num_ahead += len(data)
        self.got += data
        self.work(data)


@contextlib.asynccontextmanager
async def talking_to(taker, **options):
    async with serving(taker, **options) as server:
        client = await Client.open(server)
        yield client
        await client.close()


async def test_a_fast_body_is_read_in_threads_and_the_next_request_is_not(pool):
    taker = Taker(pool)
    async with talking_to(taker) as client:
        client.send(PUT + DATA + b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nend")
        assert (await client.answer())[2] == b"%d" % SIZE
        assert (await client.answer())[2] == b"%d" % (SIZE + 3)

    assert bytes(taker.got) == DATA + b"end"
    assert taker.num_ahead > SIZE // 2
    assert threading.main_thread() not in taker.threads


async def test_tls_and_chunks_are_left_to_the_loop(pool, tls):
    taker = Taker(pool, waits=False)
    async with serving(taker, tls=tls[0]) as server:
        client = await Client.open(server, ssl=tls[1], server_hostname="localhost")
        client.send(PUT + DATA)
        assert (await client.answer())[2] == b"%d" % SIZE
        await client.close()
    async with talking_to(taker) as client:
        client.send(b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.send(b"%x\r\n%b\r\n0\r\n\r\n" % (SIZE, DATA))
        assert (await client.answer())[2] == b"%d" % (2 * SIZE)

    assert taker.num_ahead == 0
    assert bytes(taker.got) == DATA * 2


async def test_who_stops_sending_holds_no_thread_and_may_go_on(pool):
    taker = Taker(pool)
    async with talking_to(taker) as client:
        client.send(PUT + DATA[: SIZE - 2**20])
        await until(lambda: len(taker.got) >= SIZE - 2**20)
        await asyncio.wait_for(asyncio.wrap_future(pool.submit(int)), WAIT_S)
        client.send(DATA[SIZE - 2**20 :])
        assert (await client.answer())[2] == b"%d" % SIZE

    assert bytes(taker.got) == DATA
    assert taker.num_ahead


async def test_who_stops_sending_is_refused_in_time(pool):
    taker = Taker(pool)
    async with talking_to(taker, limits=Limits(body_grace_s=0.5, body_bytes_per_s=64 * 2**20)) as client:
        client.send(PUT + DATA[: SIZE // 2])
        assert (await client.answer())[0] == 408

    assert taker.num_ahead


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_a_client_that_goes_away_is_noticed(pool, how):
    taker = Taker(pool)
    async with serving(taker) as server:
        num_before = num_open()
        client = await Client.open(server)
        client.send(PUT + DATA[: SIZE // 2])
        await until(lambda: taker.num_ahead)
        getattr(client.writer.transport, how)()
        await asyncio.wait_for(taker.ended.wait(), WAIT_S)
        await until(lambda: num_open() <= num_before)

    assert isinstance(taker.error, Disconnected | asyncio.CancelledError)
    assert bytes(taker.got) == DATA[: len(taker.got)]


async def test_a_server_that_closes_waits_for_the_thread(pool):
    busy, go = threading.Event(), threading.Event()
    at_work = []

    def work(_):
        at_work.append(1)
        busy.set()
        go.wait(WAIT_S)
        at_work.pop()

    taker = Taker(pool, work)
    async with serving(taker) as server:
        client = await Client.open(server)
        client.send(PUT + DATA)
        await asyncio.to_thread(busy.wait, WAIT_S)
        closing = asyncio.ensure_future(server.close())
        await asyncio.sleep(0.1)
        assert not closing.done()
        go.set()
        await closing
        assert not at_work
        assert isinstance(taker.error, asyncio.CancelledError)
        await client.close()


async def test_what_the_work_raises_is_the_handlers(pool, caplog):
    def work(_):
        raise ValueError("no room")

    taker = Taker(pool, work)
    async with talking_to(taker) as client:
        client.send(PUT + DATA + b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nend")
        assert (await client.answer())[0] == 500
        assert (await client.answer())[0] == 200  # the rest of the first body was skipped, to the byte

    assert isinstance(taker.error, ValueError)
    assert "no room" in caplog.text


def test_the_gate_hears_of_what_it_did_not_see():
    gate = RequestGate()
    events = gate.receive(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nab")

    assert len(events) == 2
    assert gate.num_body_bytes_left == 8
    assert gate.pass_by(5) == []
    assert gate.num_body_bytes_left == 3
    assert gate.pass_by(0) == []
    assert [type(event) for event in gate.pass_by(3)] == [End]
    assert gate.num_body_bytes_left == 0
    assert gate.receive(b"GET / HTTP/1.1\r\n") == []
    assert gate.next_message() == []
    assert [type(event) for event in gate.receive(b"Host: h\r\n\r\n")] == [Message]
