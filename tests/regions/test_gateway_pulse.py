"""An edge hears that its request lives: before the answer, inside it, and not where nobody asked."""

import asyncio
import contextlib
import json

import pytest

from regions.ask import Ask
from regions.gateway import pulse
from regions.gateway.pulse import COMMENT
from regions.map.headers import ASK
from regions.nodes import watch
from tests.regions.fake_node import CHAT, SSE, TOKEN, event, region, until
from wire.dial import DialError

EDGE = (("authorization", f"Bearer {TOKEN}"),)
DONE = b"data: [DONE]\n\n"


@contextlib.asynccontextmanager
async def beating(monkeypatch, period_s=0.05):
    monkeypatch.setattr(pulse, "PULSE_S", period_s)
    async with region() as r:
        beat = asyncio.create_task(r.gateway.pulse.run())
        try:
            yield r
        finally:
            beat.cancel()


async def ask(r, *, stream=False, quiet_s=None):
    """As an edge asks."""
    headers = (*EDGE, (ASK, Ask("acme/m", stream, 1, 1).header()))
    body = json.dumps({"model": "acme/m", "stream": stream}).encode()
    return await r.pool.request("POST", CHAT, headers, body, head_s=60.0, quiet_s=quiet_s)


async def test_a_long_answer_outlasts_an_edges_patience_with_silence(monkeypatch):
    async with beating(monkeypatch) as r:
        await r.resident()

        async def slowly(exchange, question):
            await asyncio.sleep(1.0)
            await r.fakes[0].usual(exchange, question)

        r.fakes[0].answer = slowly
        answer = await ask(r, quiet_s=0.5)

        assert (answer.head.status, await answer.read()) == (200, b'{"choices":[1]}')
        assert len(r.gateway.pulse) == 0


async def test_so_does_one_that_waits_for_a_wake(monkeypatch):
    async with beating(monkeypatch) as r:
        r.fakes[0].go.clear()
        asked = asyncio.create_task(ask(r, quiet_s=0.5))
        await asyncio.sleep(1.0)
        r.fakes[0].go.set()
        answer = await asked

        assert (answer.head.status, answer.head.get("x-nearfield-start")) == (200, "region")
        await answer.read()


async def test_a_quiet_stream_has_comments_and_a_busy_one_has_none(monkeypatch):
    more = asyncio.Event()

    async def script(exchange, question):
        await exchange.start(200, SSE)
        await exchange.write(event(1))
        await more.wait()
        await exchange.write(event(2) + DONE)
        await exchange.finish()

    async with beating(monkeypatch) as r:
        await r.resident()
        r.fakes[0].answer = script
        async with await ask(r, stream=True) as answer:
            heard = b""
            while COMMENT not in heard:
                heard += await answer.next(60.0)
            more.set()
            heard += await answer.read()

    assert heard.startswith(event(1) + COMMENT)
    assert heard.replace(COMMENT, b"").startswith(event(1) + event(2) + DONE)


async def test_what_spoke_since_the_last_beat_is_left_alone():
    async with region() as r:
        await r.resident()
        said = asyncio.Event()

        async def script(exchange, question):
            await exchange.start(200, SSE)
            await exchange.write(event(1))
            await said.wait()
            await exchange.finish()

        r.fakes[0].answer = script
        async with await ask(r, stream=True) as answer:
            assert await answer.next(60.0) == event(1)
            r.gateway.pulse.beat()
            r.gateway.pulse.beat()
            said.set()
            assert (await answer.read()).count(COMMENT) == 1


async def test_who_is_no_edge_hears_nothing(monkeypatch):
    async with beating(monkeypatch) as r:
        await r.resident()

        async def slowly(exchange, question):
            await asyncio.sleep(0.4)
            await r.fakes[0].usual(exchange, question)

        r.fakes[0].answer = slowly
        body = json.dumps({"model": "acme/m"}).encode()
        with pytest.raises(DialError):
            await r.pool.request("POST", CHAT, EDGE, body, head_s=60.0, quiet_s=0.2)


async def test_a_node_that_falls_silent_is_given_up_while_the_edge_still_waits(monkeypatch):
    monkeypatch.setattr("regions.nodes.client.STATUS_S", 0.05)
    monkeypatch.setattr(watch, "POLL_S", 0.02)
    async with beating(monkeypatch) as r:
        await r.resident()
        frozen = asyncio.Event()

        async def freezes(exchange, question):
            frozen.set()
            await asyncio.sleep(100)

        r.fakes[0].answer = freezes
        asked = asyncio.create_task(ask(r))
        await frozen.wait()
        r.fakes[0].says.clear()
        watching = asyncio.create_task(r.watch.run())
        answer = await asyncio.wait_for(asked, 60)
        said = json.loads(await answer.read())
        watching.cancel()

        assert (answer.head.status, said["error"]["code"]) == (503, "worker_lost")
        r.fakes[0].says.set()
        await until(lambda: r.fakes[0].num_cut == 1)


@pytest.mark.parametrize("is_cold", [True, False])
async def test_who_streams_hears_how_far_the_weights_are_while_the_worker_waits_for_them(
    monkeypatch, is_cold
):
    """The worker takes requests long before: whoever woke it and whoever came later hear the node's word of it."""
    here = asyncio.Event()

    async def script(exchange, question):
        await here.wait()
        await r.fakes[0].usual(exchange, question)

    async with beating(monkeypatch) as r:
        fake, r.fakes[0].answer = r.fakes[0], script
        fake.landing = {"percent": 40.0, "eta_s": 3.0}
        if not is_cold:
            await r.resident()
        async with await ask(r, stream=True) as answer:
            heard = b""
            while heard.count(b'"percent": 40') < 2:
                heard += await answer.next(60.0)
            fake.landing = {"percent": 80.0, "eta_s": 1.0}
            await r.watch.refresh()
            while b'"percent": 80' not in heard:
                heard += await answer.next(60.0)
            fake.landing = None
            await r.watch.refresh()
            while COMMENT not in heard:
                heard += await answer.next(60.0)
            here.set()
            heard += await answer.read()

    assert b': nearfield {"phase": "fetch", "percent": 40, "eta_s": 3.0}\n\n' in heard
    assert event({"n": 2}) + DONE in heard


async def test_who_has_hardly_to_wait_for_weights_has_no_comments(monkeypatch):
    async with region() as r:
        r.fakes[0].landing = {"percent": 90.0, "eta_s": 0.1}
        answer = await ask(r, stream=True)
        heard = await answer.read()

    assert b'"phase": "fetch"' not in heard
