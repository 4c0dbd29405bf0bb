"""Signs of life before an answer and inside it: what they prolong, and what they do not."""

import asyncio
import socket
from types import SimpleNamespace

import pytest

from tests.wire.test_dial import OK, fetch, upstream
from tests.wire.test_serve import serving
from wire import alarm
from wire.dial import DialError, Pool
from wire.listener.exchange import PROCESSING
from wire.upstreams.keepalive import notice_loss

COMMENT = b":\n\n"


def pulses(num, gap_s, last=OK):
    """A script: `num` interim answers, `gap_s` apart, then `last` (None: silence)."""

    async def script(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        for _ in range(num):
            writer.write(PROCESSING)
            await asyncio.sleep(gap_s)
        if last is None:
            await asyncio.sleep(100)
        writer.write(last)
        await writer.drain()

    return script


class Clock:
    """In place of a loop for alarms: time goes on when the test says so, however long a busy machine takes."""

    def __init__(self):
        self.asked = asyncio.Event()
        self._now, self._timers = 0.0, []

    def time(self):
        self.asked.set()
        return self._now

    def call_at(self, when, call):
        timer = SimpleNamespace(when=lambda: when, call=call, cancel=lambda: self._timers.remove(timer))
        self._timers.append(timer)
        return timer

    def go(self, seconds):
        self._now += seconds
        for timer in [each for each in self._timers if each.when() <= self._now]:
            self._timers.remove(timer)
            timer.call()


async def test_a_head_may_take_long_while_the_upstream_says_so(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(alarm, "asyncio", SimpleNamespace(get_running_loop=lambda: clock))

    async def script(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        for _ in range(8):
            clock.asked.clear()
            writer.write(PROCESSING)
            await asyncio.wait_for(clock.asked.wait(), 30)  # it was read, or the one before
            clock.go(0.2)
        writer.write(OK)
        await writer.drain()

    async with upstream(script) as pool:
        assert await fetch(pool, head_s=60.0, quiet_s=0.25) == (200, b"ok")


@pytest.mark.parametrize("num", [0, 2])
async def test_silence_before_the_head_ends_it_early(num):
    async with upstream(pulses(num, 0.01, last=None)) as pool:
        with pytest.raises(DialError) as error:
            await asyncio.wait_for(fetch(pool, head_s=500.0, quiet_s=0.1), 60)

        assert (error.value.phase, error.value.timed_out) == ("head", True)


async def test_signs_of_life_do_not_prolong_the_deadline_of_the_head():
    async with upstream(pulses(1000, 0.02)) as pool:
        with pytest.raises(DialError) as error:
            await asyncio.wait_for(fetch(pool, head_s=0.3, quiet_s=0.2), 15)

        assert error.value.timed_out


async def test_a_stray_interim_answer_changes_nothing_for_who_did_not_ask():
    async with upstream(pulses(3, 0.01)) as pool:
        assert await fetch(pool, head_s=60.0) == (200, b"ok")


async def test_an_exchange_pulses_before_its_head_and_inside_a_stream_and_never_elsewhere():
    async def handler(exchange):
        exchange.pulse(COMMENT)
        await exchange.start(200, (), None if exchange.head.path == "/stream" else 2)
        exchange.pulse(COMMENT)
        await exchange.write(b"ok")
        exchange.pulse(COMMENT)
        await exchange.finish()
        exchange.pulse(COMMENT)

    async with serving(handler) as server:
        pool = Pool("127.0.0.1", server.port)
        stream = await (await pool.request("GET", "/stream")).read()
        whole = await (await pool.request("GET", "/whole")).read()
        await pool.close()

    assert stream == COMMENT + b"ok" + COMMENT
    assert whole == b"ok"


async def test_a_client_of_http_1_0_hears_no_interim_answer():
    async def handler(exchange):
        exchange.pulse(COMMENT)
        await exchange.respond(200, (), b"ok")

    async with serving(handler) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
        said = await reader.read()
        writer.close()

    assert said.startswith(b"HTTP/1.1 200")


async def test_the_kernel_watches_the_way_where_it_is_asked_to():
    async with upstream(pulses(0, 0.0)) as pool:
        watched = Pool(pool.host, pool.port, lost_s=2.0)
        assert await fetch(watched) == (200, b"ok")
        await watched.close()
        _, writer = await asyncio.open_connection(pool.host, pool.port)
        sock = writer.get_extra_info("socket")
        notice_loss(sock, 2.0)
        found = [
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
            sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
        ]
        writer.close()

    assert found == [1, 1, 2000]
