"""One gateway passes a request on to another region's: for edges whose own way there is cut."""

import asyncio
import contextlib

import pytest

from regions.gateway import pass_on, pulse
from regions.gateway.pass_on import Peers
from regions.map.headers import FOR, PASSED_BY
from tests.regions.fake_node import TOKEN, event, region, until
from tests.regions.test_gateway_relay import code
from tests.wire.test_silence import a_full_queue
from wire.dial import DialError
from wire.serve import Server

TO_FRA = (("x-nearfield-for", "fra"), ("x-request-id", "req_7"))


@contextlib.asynccontextmanager
async def passing(handler):
    """A real gateway of iad before a scripted gateway of fra."""
    server = await Server.start(handler, "127.0.0.1", 0)
    try:
        async with region(peers=Peers({"fra": f"127.0.0.1:{server.port}"})) as r:
            yield r
    finally:
        await server.close()


async def test_gateway_the_other_region_gets_the_request_as_the_edge_made_it():
    seen = []

    async def fra(exchange):
        seen.append((exchange.head, await exchange.read_body(1 << 20)))
        await exchange.respond(200, (("x-nearfield-region", "fra"), ("server", "x")), b'{"from":"fra"}')

    async with passing(fra) as r:
        head, body = await r.answer(
            headers=(*TO_FRA, ("x-nearfield-tenant", "acme")), body=b'{"model": "acme/m"}'
        )

    (asked, sent), *others = seen
    assert not others
    assert sent == b'{"model": "acme/m"}'
    assert asked.get("authorization") == f"Bearer {TOKEN}"
    assert (asked.get("x-request-id"), asked.get("x-nearfield-tenant")) == ("req_7", "acme")
    assert asked.get(PASSED_BY) == "iad"
    assert asked.get(FOR) is None
    assert (head.status, body, head.get("x-nearfield-region")) == (200, b'{"from":"fra"}', "fra")
    assert head.get("server") is None


async def test_gateway_one_hop_is_all():
    async def fra(exchange):
        raise AssertionError("asked")

    async with passing(fra) as r:
        head, body = await r.answer(headers=(*TO_FRA, (PASSED_BY, "nrt")))

    assert (head.status, code(body)) == (502, "upstream_failed")


@pytest.mark.parametrize(("wanted", "status"), [("sfo", 404), ("", 404), ("iad", 200)], ids=str)
async def test_gateway_an_unknown_region_is_refused_and_its_own_is_itself(wanted, status):
    async with passing(lambda exchange: exchange.respond(500, ())) as r:
        await r.resident()
        head, _ = await r.answer(headers=((FOR, wanted),))

    assert head.status == status


async def test_gateway_nobody_without_the_hop_token_is_passed_on():
    async with passing(lambda exchange: exchange.respond(200, ())) as r:
        head, _ = await r.answer(headers=TO_FRA, token="x" * 64)

    assert head.status == 401


async def test_gateway_a_region_that_is_gone_from_here_too_is_a_refusal_that_may_be_replayed():
    async def fra(exchange):
        await exchange.read_body(1 << 20)
        exchange.abort()

    async with passing(fra) as r:
        head, body = await r.answer(headers=TO_FRA)

    assert (head.status, code(body), head.get("retry-after")) == (503, "region_unavailable", "1")


async def test_gateway_a_way_that_is_lost_is_known_before_anyone_asks_again(monkeypatch):
    """By kernels, as an edge knows its own ways: who asks is not kept waiting for a connection that nobody takes."""
    monkeypatch.setattr(pass_on, "CONNECT_S", 1000.0)
    with a_full_queue() as (host, port):
        async with region(peers=Peers({"fra": f"{host}:{port}"})) as r:
            asking = [asyncio.create_task(r.answer(headers=TO_FRA)) for _ in range(2)]
            way = r.gateway.pass_on.ways["fra"]
            watching = asyncio.create_task(r.gateway.pass_on.run())
            async with asyncio.timeout(60):
                found = await asyncio.gather(*asking)
            assert way.down
            found.append(await r.answer(headers=TO_FRA))
            metrics = (await r.answer("/metrics", method="GET"))[1].decode()
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    assert [(head.status, code(body)) for head, body in found] == [(503, "region_unavailable")] * 3
    assert "nearfield_gateway_lost_regions 1" in metrics


async def test_gateway_a_stream_comes_through_as_bytes_and_its_break_is_a_break():
    async def fra(exchange):
        await exchange.read_body(1 << 20)
        await exchange.start(200, (("content-type", "text/event-stream"),))
        await exchange.write(event({"n": 1}))
        await asyncio.sleep(0.01)
        exchange.abort()

    async with passing(fra) as r:
        answer = await r.ask(headers=TO_FRA, stream=True)
        assert await answer.next() == event({"n": 1})
        with pytest.raises(DialError):
            await answer.next()


async def test_gateway_a_client_that_goes_away_is_heard_of_in_the_other_region():
    gone = asyncio.Event()

    async def fra(exchange):
        await exchange.read_body(1 << 20)
        await exchange.start(200, (("content-type", "text/event-stream"),))
        await exchange.write(event({"n": 1}))
        try:
            await asyncio.sleep(100)
        finally:
            gone.set()

    async with passing(fra) as r:
        answer = await r.ask(headers=TO_FRA, stream=True)
        await answer.next()
        answer.abort()
        await asyncio.wait_for(gone.wait(), 60)


async def test_gateway_who_waits_for_another_region_hears_that_it_lives(monkeypatch):
    """Else an edge would give up on a long prompt behind a detour."""
    monkeypatch.setattr(pulse, "PULSE_S", 0.01)
    assert pass_on.QUIET_S > pulse.PULSE_S
    go = asyncio.Event()

    async def fra(exchange):
        await exchange.read_body(1 << 20)
        await go.wait()
        await exchange.respond(200, (), b"{}")

    async with passing(fra) as r:
        asking = asyncio.create_task(r.ask(headers=TO_FRA))
        await until(lambda: len(r.gateway.pulse) == 1)
        (waiting,) = r.gateway.pulse._trips
        said = []
        waiting.exchange.pulse = said.append
        r.gateway.pulse.beat()
        assert said == []  # it came since the last beat
        r.gateway.pulse.beat()
        go.set()
        assert (await asking).head.status == 200
        assert said == [pulse.COMMENT]
        await until(lambda: len(r.gateway.pulse) == 0)
