"""The gateway's short way: it decides as the ordinary way does, and leaves to it whatever is not usual."""

import asyncio
import json

import pytest

from regions.ask import Ask
from regions.gateway import lane, passing
from regions.gateway.pulse import COMMENT
from regions.map.headers import (
    ASK,
    ATTEMPT,
    DEADLINE_MS,
    FOR,
    KEY,
    PREFER_REPLICA,
    REQUEST_ID,
    RESUME,
    REVISION,
    TENANT,
    WAITED,
)
from regions.map.region import RolloutState
from regions.nodes.pick import replica_id
from tests.regions.fake_node import CHAT, SSE, TOKEN, event, region, revision, until
from wire.timing import parse_receipt, parse_server_timing

DONE = b'data: [DONE]\n\n: nearfield {"hop":"node"}\n\n'


@pytest.fixture
def passages(monkeypatch):
    """Every request that a lane sent, and how often it handed one over."""
    taken = []

    class Watched(passing.Passing):
        __slots__ = ("num_handed",)

        def send(self, *arguments):
            self.num_handed = 0
            taken.append(self)
            super().send(*arguments)

        def hand_over(self):
            self.num_handed += 1
            super().hand_over()

    monkeypatch.setattr(lane, "Passing", Watched)
    return taken


def handed(passages):
    return [each.num_handed for each in passages]


async def send(r, *, stream=False, model="acme/m", number="req_1", most_ms=600_000, also=(), last=()):
    """As an edge asks: what varies comes last."""
    headers = (("authorization", f"Bearer {TOKEN}"), ("accept", "*/*"), (TENANT, "acme"), *also)
    headers += ((REQUEST_ID, number), (ASK, Ask(model, stream, 1, 1).header()), (DEADLINE_MS, str(most_ms)))
    body = json.dumps({"model": model, "stream": stream}).encode()
    return await r.pool.request("POST", CHAT, headers + last, body, head_s=60.0)


async def told(r, **given):
    answer = await send(r, **given)
    return answer.head, await answer.read()


def code(body):
    return json.loads(body)["error"]["code"]


def script(*steps, then="finish"):
    """A stream: bytes are written, numbers waited for."""

    async def answer(exchange, question):
        await exchange.start(200, SSE)
        for step in steps:
            await (exchange.write(step) if isinstance(step, bytes) else asyncio.sleep(step))
        await (exchange.finish() if then == "finish" else asyncio.sleep(0.02))
        if then == "cut":
            exchange.abort()

    return answer


async def known_to(r):
    """One request goes the ordinary way; the connection, and the node's, are kept."""
    await r.resident()
    head, _ = await told(r, stream=True)
    assert head.status == 200
    r.fakes[0].requests.clear()


def is_free(r):
    return not r.deployment.leases and not r.gateway.relay.inflight and not len(r.gateway.pulse)


async def test_both_ways_say_the_same(passages):
    """Line by line, to the node and to the edge, but for what is one request's own."""
    own = (
        ("x-nearfield-weight", "3"),
        (WAITED, "1"),
        (KEY, "0123456789ab"),
        (ATTEMPT, "1"),
        ("x-nearfield-wait", "9"),
        (PREFER_REPLICA, "ab"),
    )
    async with region() as r:
        await r.resident()
        for stream in (False, True):
            r.pool.abort()
            long, first = await told(r, stream=stream, also=own)
            short, second = await told(r, stream=stream, also=own, number="req_2")
            [(ordinary, body), (lanes, again)] = r.fakes[0].requests[-2:]
            assert [name for name, _ in ordinary.headers] == [name for name, _ in lanes.headers]
            differ = {name for name, value in ordinary.headers if lanes.get(name) != value}
            assert differ <= {REQUEST_ID, DEADLINE_MS}
            assert (lanes.get(REQUEST_ID), lanes.get(ATTEMPT), again) == ("req_2", "1", body)
            assert lanes.get(WAITED) == "1"
            assert {name for name, _ in long.headers} == {name for name, _ in short.headers}
            differ = {name for name, value in long.headers if short.get(name) != value}
            assert differ <= {REQUEST_ID, "server-timing", "date"}
            assert first.split(b": nearfield")[:-1] == second.split(b": nearfield")[:-1]
        assert handed(passages) == [0, 0]
        assert is_free(r)


async def test_times_and_receipts_are_whole(passages):
    async with region() as r:
        await known_to(r)
        head, _ = await told(r)
        _, body = await told(r, stream=True)

    timing = parse_server_timing(head.get("server-timing"))
    parts = {name: ms for name, ms in timing.items() if name.startswith("gateway.")}
    assert parts.keys() == {"gateway." + name for name in ("read", "pick", "first_byte", "stream")}
    assert (timing["node"], sum(parts.values())) == (1.0, pytest.approx(timing["gateway"], abs=1.0))
    receipt = parse_receipt(body.decode().splitlines()[-2])
    assert (receipt["hop"], receipt["region"], receipt["remote_bytes"]) == ("gateway", "iad", 0)
    assert receipt["phases"].keys() == {"read", "pick", "first_byte", "stream"}
    assert handed(passages) == [0, 0]


async def test_it_is_counted_like_any_other(passages):
    async with region() as r:
        await known_to(r)
        r.deployment.bake(r.revision.id)
        await told(r)
        await told(r, stream=True)
        page = r.wakes.figures.metrics.page().decode()

    assert len(passages) == 2
    assert (r.deployment.num_done, r.deployment.num_failed) == (2, 0)
    assert 'nearfield_gateway_first_byte_seconds_count{start="resident"} 3' in page


@pytest.mark.parametrize("name", [FOR, RESUME])
@pytest.mark.parametrize("place", ["also", "last"])
async def test_heads_that_mean_more_have_no_lane(passages, name, place):
    value = {FOR: "iad", RESUME: "watch"}[name]
    async with region() as r:
        await r.resident()
        for _ in range(2):
            assert (await told(r, **{place: ((name, value),)}))[0].status == 200

    assert passages == []


@pytest.mark.parametrize(
    "given",
    [
        {"also": (("x-nearfield-weight", "2"),)},
        {"most_ms": 1500},
        {"number": "no id"},
        {"model": "acme/none"},
        {"model": "acme/cold"},
    ],
)
async def test_what_differs_goes_the_ordinary_way(passages, given):
    """Another head, a deadline that is near, what is refused: each is answered as without a lane."""
    async with region() as r:
        r.deploy(revision("acme/cold"), live=None, state=RolloutState.WARMING)
        await r.resident()
        first = await told(r, **given)
        r.pool.abort()
        await known_to(r)
        second = await told(r, **given)

    assert second[0].status == first[0].status
    assert first[1] == second[1]
    assert passages == []


async def test_another_token_is_refused_on_a_known_connection(passages):
    async with region() as r:
        await known_to(r)
        head, body = await r.answer(token="x" * 64, headers=((TENANT, "acme"),))

    assert (head.status, code(body), passages) == (401, "invalid_api_key", [])


async def test_a_model_that_left_its_worker_is_woken(passages):
    """Seen before, when nothing was sent; and not yet seen, when the node says so."""
    async with region() as r:
        await known_to(r)
        r.fakes[0].resident.clear()
        unseen, _ = await told(r)
        r.fakes[0].resident.clear()
        await r.watch.refresh()
        seen, _ = await told(r)

    assert [unseen.status, seen.status] == [200, 200]
    assert len(r.fakes[0].loads) == 2
    assert handed(passages) == [1]


async def test_a_new_revision_is_followed(passages):
    async with region() as r:
        await known_to(r)
        newer = revision(salt="2")
        r.fakes[0].resident.add(newer.id)
        await r.watch.refresh()
        r.deployment.live = newer
        head, _ = await told(r)

    assert (head.status, head.get(REVISION)) == (200, newer.id)
    assert r.fakes[0].requests[0][0].get(REVISION) == newer.id
    assert handed(passages) == [0]


async def test_a_node_without_a_kept_connection_is_the_ordinary_ways(passages):
    async with region() as r:
        await known_to(r)
        for pool in r.gateway.relay.pools.values():
            pool.abort()
        head, _ = await told(r)

    assert (head.status, passages) == (200, [])


async def test_two_nodes_share_the_load_and_a_wish_is_heard(passages):
    async with region(num_nodes=2) as r:
        for fake in r.fakes:
            fake.resident.add(r.revision.id)
        await r.watch.refresh()
        for fake in r.fakes:
            wish = ((PREFER_REPLICA, replica_id(fake.address)),)
            for _ in range(2):
                assert (await told(r, also=wish))[0].get("x-nearfield-replica") == replica_id(fake.address)

    assert [len(fake.requests) for fake in r.fakes] == [2, 2]
    assert len(passages) == 2


async def test_a_nodes_own_refusal_is_passed_on(passages):
    async def full(exchange, question):
        said = (("retry-after", "3"), ("content-type", "application/json"))
        await exchange.respond(429, said, b'{"error":{"code":"overloaded"}}')

    async with region() as r:
        await known_to(r)
        r.fakes[0].answer = full
        head, body = await told(r, stream=True)

    assert (head.status, head.get("retry-after"), code(body)) == (429, "3", "overloaded")
    assert handed(passages) == [1]


async def test_a_node_lost_in_mid_stream_ends_it_with_one_error_event(passages):
    async with region() as r:
        await known_to(r)
        r.fakes[0].answer = script(event(0), event(1), b'data: {"n": 1', then="cut")
        _, body = await told(r, stream=True)

    *passed, error, receipt = body.decode().strip().split("\n\n")
    assert passed == ["data: 0", "data: 1"]
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == "worker_lost"
    assert parse_receipt(receipt)["hop"] == "gateway"
    assert handed(passages) == [1]
    assert is_free(r)


async def test_a_node_that_answers_nothing_and_goes_is_asked_on_a_new_connection_once(passages):
    """As on any kept connection: its close may have crossed the request."""

    async def dies(exchange, question):
        exchange.abort()

    async with region() as r:
        await known_to(r)
        r.fakes[0].answer = dies
        head, body = await told(r)

    assert (head.status, code(body), len(r.fakes[0].requests)) == (503, "worker_lost", 2)
    assert handed(passages) == [1]


async def test_silence_is_handed_over(passages, monkeypatch):
    """Before the answer, behind its head, and inside it: nothing is lost, and the times are told apart."""
    monkeypatch.setattr(passing, "LATE_S", 0.01)
    texts = []
    async with region() as r:
        await known_to(r)

        async def late(exchange, question):
            await asyncio.sleep(1.2)
            await script(event(0), DONE)(exchange, question)

        for answer in (late, script(1.2, event(0), DONE), script(event(0), 1.2, DONE)):
            r.fakes[0].answer = answer
            texts.append((await told(r, stream=True))[1])

    assert [text.startswith(event(0) + DONE) for text in texts] == [True] * 3
    phases = [parse_receipt(text.decode().splitlines()[-2])["phases"] for text in texts]
    assert [each["first_byte"] > 1000 for each in phases] == [True, False, False]
    assert [each["stream"] > 1000 for each in phases] == [False, True, True]
    assert handed(passages) == [1, 1, 1]


async def test_a_beat_is_heard_on_it(passages):
    """As an interim answer before the head, and as a comment between events that are far apart."""
    async with region() as r:
        await known_to(r)
        go = asyncio.Event()

        async def waits(exchange, question):
            await go.wait()
            await script(event(0), 0.3, DONE)(exchange, question)

        r.fakes[0].answer = waits
        asking = asyncio.create_task(send(r, stream=True))
        await until(lambda: passages)
        [connection] = r.pool._busy
        for num in (0, 1, 1, 2):  # the first finds one who came since; then each second is for who waits
            r.gateway.pulse.beat()
            await until(lambda num=num: connection._reader.num_interim == num)
        go.set()
        answer = await asking
        assert await answer.next() == event(0)
        for _ in range(2):  # the first finds that an event was said
            r.gateway.pulse.beat()
        assert (await answer.read()).startswith(COMMENT + DONE)
    assert handed(passages) == [0]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_deadline_is_met(passages, stream):
    async def slow(exchange, question):
        await script(event(1), then="hang")(exchange, question) if stream else None
        await asyncio.sleep(30)

    async with region() as r:
        await known_to(r)
        r.fakes[0].answer = slow
        head, body = await told(r, stream=stream, most_ms=2100)
        await until(lambda: r.fakes[0].num_open == 0)

    assert head.status == (200 if stream else 504)
    assert b"deadline_exceeded" in body
    assert handed(passages) == [1]


async def test_an_edge_that_leaves_closes_the_upstream_at_once(passages):
    async with region() as r:
        await known_to(r)
        r.deployment.bake(r.revision.id)
        r.fakes[0].answer = script(event(1), 30)
        answer = await send(r, stream=True)
        await answer.next(60.0)
        assert r.deployment.leases == {r.revision.id: 1}
        assert r.gateway.relay.inflight.total() == 1
        answer.abort()
        await until(lambda: r.fakes[0].num_cut == 1)

        assert is_free(r)
        assert (r.deployment.num_done, handed(passages)) == (1, [0])


async def test_an_edge_that_reads_slowly_is_waited_for(passages):
    async with region() as r:
        await known_to(r)
        go, end = asyncio.Event(), asyncio.Event()

        async def waits(exchange, question):
            await exchange.start(200, SSE)
            await exchange.write(event(0))
            await go.wait()
            await exchange.write(event(1))
            await end.wait()
            await exchange.finish(DONE)

        r.fakes[0].answer = waits
        answer = await send(r, stream=True)
        assert await answer.next() == event(0)
        passages[0].line.pause_writing()
        go.set()
        assert await answer.next() == event(1)
        assert handed(passages) == [1]
        end.set()
        await until(lambda: not r.fakes[0].num_open)
        assert not is_free(r)  # its end waits until the edge has caught up
        passages[0].line.resume_writing()
        assert (await answer.read()).startswith(DONE)


async def test_large_events_come_whole(passages):
    events = [event("x" * 200_000) for _ in range(10)]
    async with region() as r:
        await known_to(r)
        r.fakes[0].answer = script(*events, DONE)
        _, body = await told(r, stream=True)

    assert body.startswith(b"".join(events) + DONE)
    assert handed(passages) == [1]


async def test_a_gateway_that_drains_says_that_it_is_the_last_answer(passages):
    async with region() as r:
        await known_to(r)
        go = asyncio.Event()

        async def waits(exchange, question):
            await go.wait()
            await r.fakes[0].usual(exchange, question)

        r.fakes[0].answer = waits
        asking = asyncio.create_task(told(r))
        await until(lambda: passages)
        draining = asyncio.create_task(r.server.drain(30))
        await asyncio.sleep(0)
        go.set()
        head, _ = await asking
        await draining

    assert (head.status, head.keep_alive) == (200, False)
    assert handed(passages) == [1]


async def test_a_client_lost_in_the_very_turn_of_a_hand_over_leaves_nothing_behind(passages):
    """The sweep hands over in the next turn of the loop; whoever goes on must hear that the client is gone."""
    async with region() as r:
        await known_to(r)
        r.fakes[0].answer = script(event(1), 30)
        answer = await send(r, stream=True)
        await answer.next(60.0)
        [passage] = passages

        async def sweep():
            passage.check(passage.deadline)
            passage.line._gone()

        await asyncio.create_task(sweep())
        await until(lambda: r.fakes[0].num_cut == 1)
        await until(lambda: is_free(r))
        answer.abort()


async def test_a_silent_node_is_given_up_on_it(passages):
    async with region() as r:
        await known_to(r)
        r.fakes[0].answer = script(30)
        asking = asyncio.create_task(told(r))
        await until(lambda: passages and r.fakes[0].num_open)
        r.gateway.relay.cut(r.fakes[0].address)
        head, body = await asking

    assert (head.status, code(body), len(r.fakes[0].requests)) == (503, "worker_lost", 1)


async def test_a_trace_goes_on_to_the_node_and_leaves_the_lane_to_the_others(passages):
    """Each has a head of its own, so none is known again; those without one still take the short way."""
    async with region() as r:
        await known_to(r)
        for number in range(3):
            parent = f"00-{'4' * 32}-{number + 1:016x}-01"
            await told(r, also=(("traceparent", parent), ("tracestate", "a=1")))
            head = r.fakes[0].requests[-1][0]
            assert (head.get("traceparent"), head.get("tracestate")) == (parent, "a=1")
        await told(r)

    assert handed(passages) == [0]
