"""The short way of a repeated head: it decides as the door does, and hands over whatever is not usual."""

import asyncio
import json
from functools import reduce
from operator import getitem

import pytest

from edge import hosts
from edge.choice.route import Decision
from edge.orders import Orders
from edge.relay import lane, passing
from regions.map.region import Tier
from tests.edge.test_replay import DONE, ERROR, EVENT, events, two
from tests.edge.world import (
    BODY,
    MODEL,
    OTHER,
    POLICY_KEYS,
    STREAM_BODY,
    USER,
    answers,
    code,
    cuts,
    refuses,
    served,
    streams,
)
from wire import dial
from wire.dial import Pool
from wire.timing import parse_receipt, parse_server_timing
from wire.upstreams import brief

RECEIPT = b': nearfield {"hop": "gateway", "total_ms": 1.0, "phases": {}}\n\n'
PATH = "/v1/completions"


@pytest.fixture
def passages(monkeypatch):
    """Every request that a lane took, and how often it handed one over."""
    taken = []

    class Watched(passing.Passing):
        __slots__ = ("num_handed",)

        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.num_handed = 0

        def go(self, *arguments):
            taken.append(self)
            super().go(*arguments)

        def hand_over(self):
            self.num_handed += 1
            super().hand_over()

    monkeypatch.setattr(lane, "Passing", Watched)
    return taken


async def on_lane(world, script, second=answers, **options):
    """Two regions, and a connection to the edge on which `PATH` has been asked before."""
    edge, near, far = await two(world, answers, second, **options)
    status, _, _ = await edge.ask(PATH, STREAM_BODY)
    assert status == 200
    near.script = script
    near.requests.clear()
    return edge, near, far


async def test_the_second_request_of_a_head_takes_it(world, passages):
    edge, near, _ = await on_lane(world, answers)
    body = json.dumps({"model": MODEL, "prompt": "a longer one than before"}).encode()
    status, headers, said = await edge.ask(PATH, body)

    assert [each.num_handed for each in passages] == [0]
    assert (status, json.loads(said)) == (200, {"from": near.name})
    [(head, arrived)] = near.requests
    assert arrived == body
    assert head.content_length == len(body)
    assert head.get("x-nearfield-tenant") == "acme"
    assert head.get("x-request-id") == headers["x-request-id"]
    timing = parse_server_timing(headers["server-timing"])
    assert {"node", "gateway", "edge", "edge.read", "edge.route", "edge.first_byte", "edge.stream"} <= set(
        timing
    )
    timings = [timing]  # of several: a busy machine may stop us between the last part and the sum
    timings += [parse_server_timing((await edge.ask(PATH, body))[1]["server-timing"]) for _ in range(9)]
    parts = [sum(ms for name, ms in each.items() if name.startswith("edge.")) for each in timings]
    assert any(
        whole == pytest.approx(each["edge"], abs=0.1 * each["edge"] + 0.01)
        for whole, each in zip(parts, timings, strict=True)
    )
    assert all(whole <= each["edge"] + 0.01 for whole, each in zip(parts, timings, strict=True))


async def another(edge, **options):
    """The same request on a connection of its own: (status, body)."""
    pool, kept = Pool("127.0.0.1", edge.pools[""].port, tls=edge.tls), edge.pools[""]
    edge.pools[""] = pool
    try:
        status, _, body = await edge.ask(PATH, BODY, **options)
    finally:
        edge.pools[""] = kept
        await pool.close()
    return status, body


async def test_the_first_request_of_another_connection_takes_it(world, passages):
    edge, _, _ = await on_lane(world, answers)
    assert [(await another(edge))[0] for _ in range(3)] == [200] * 3

    assert len(passages) == len({each.line for each in passages}) == 3
    assert len({each.lane for each in passages}) == 1
    assert (await another(edge, headers=(("x-other", "head"),)))[0] == 200
    assert (await another(edge, key=OTHER))[0] == 404
    assert len(passages) == 3


async def test_a_host_that_is_served_no_more_is_refused_on_another_connection(world, passages, monkeypatch):
    edge, _, _ = await on_lane(world, answers)
    monkeypatch.setattr(hosts.Covered, "__contains__", lambda _self, _host: False)

    assert (await another(edge))[0] == 400
    assert passages == []


async def test_as_many_take_it_as_were_under_way_at_once(world, passages):
    """A burst, or answers that suddenly took longer, leave connections behind: who comes next needs none made."""
    num = 100
    there = asyncio.Barrier(num)

    async def together(exchange, region):
        await there.wait()
        await answers(exchange, region)

    edge, near, _ = await two(world, together, together)
    there_alone = (("x-nearfield-region", near.name),)  # a busy machine makes the other look sooner
    for _ in range(3):
        asked = (edge.ask(PATH, BODY, headers=there_alone) for _ in range(num))
        said = await asyncio.wait_for(asyncio.gather(*asked), 60)
        assert {status for status, _, _ in said} == {200}

    assert len(passages) == 2 * num
    assert not any(each.num_handed for each in passages)


class Waiting:
    """Who has waited for a connection to be free, and who has left."""

    def __init__(self):
        self.came, self.left, self.news = [], [], asyncio.Event()

    async def until(self, condition):
        while not condition():
            self.news.clear()
            await self.news.wait()


@pytest.fixture
def waiting(monkeypatch):
    seen = Waiting()

    class Watched(brief.Brief):
        def join(self, waiter):
            seen.came.append(waiter)
            seen.news.set()
            super().join(waiter)

        def leave(self, waiter):
            super().leave(waiter)
            seen.left.append(waiter)
            seen.news.set()

    monkeypatch.setattr(dial, "Brief", Watched)
    monkeypatch.setattr(dial, "RECENT_S", 1e9)
    return seen


class Held:
    """A region that holds its answers until it is let; one request is on the only connection to it."""

    def __init__(self, waiting):
        self.let, self.num_asked, self._waiting = asyncio.Event(), 0, waiting

    async def _holds(self, exchange, region):
        self.num_asked += 1
        self._waiting.news.set()
        await self.let.wait()
        await answers(exchange, region)

    def ask(self):
        """There alone: a busy machine makes the other look sooner."""
        return asyncio.create_task(
            self.edge.ask(PATH, BODY, headers=(("x-nearfield-region", self.near.name),))
        )

    async def start(self, world):
        self.edge, self.near, _ = await two(world, answers)
        assert (await self.ask())[0] == 200
        self.near.script = self._holds
        self.first = self.ask()
        await self._waiting.until(lambda: self.num_asked)
        return self


async def test_one_that_finds_no_connection_free_waits_for_the_next(world, passages, waiting, monkeypatch):
    monkeypatch.setattr(brief, "LOOK_S", 1e6)
    held = await Held(waiting).start(world)
    others = [held.ask() for _ in range(3)]
    await waiting.until(lambda: len(waiting.came) == 3)
    assert len(passages) == held.num_asked == 1
    held.let.set()

    assert {(await each)[0] for each in (held.first, *others)} == {200}
    assert len(passages) == 4
    assert len({each.upstream for each in passages}) == 1
    assert not any(each.num_handed for each in passages)


async def test_one_that_waits_in_vain_has_a_connection_made(world, passages, waiting):
    held = await Held(waiting).start(world)
    other = held.ask()
    await waiting.until(lambda: held.num_asked == 2)
    held.let.set()

    assert [(await each)[0] for each in (held.first, other)] == [200, 200]
    assert (len(waiting.came), len(passages)) == (1, 1)


async def test_a_client_that_leaves_while_it_waits_is_sent_nowhere(world, passages, waiting, monkeypatch):
    monkeypatch.setattr(brief, "LOOK_S", 1e6)
    held = await Held(waiting).start(world)
    gone, other = held.ask(), held.ask()
    await waiting.until(lambda: len(waiting.came) == 2)
    gone.cancel()
    await waiting.until(lambda: waiting.left)
    held.let.set()

    assert [(await each)[0] for each in (held.first, other)] == [200, 200]
    assert held.num_asked == 2
    assert not set(waiting.left) & set(passages)
    [room] = {each.lane.inference.room for each in waiting.came}
    assert (room.num_requests, room.num_bytes) == (0, 0)


async def test_a_key_that_asks_too_often_is_told_so_and_leaves_nothing_held(world, passages):
    edge, _, _ = await on_lane(world, answers, rate_per_s=1e-3, burst=4.0)  # two are asked before
    status = [(await edge.ask(PATH, BODY))[0] for _ in range(2)]
    [room], pool = {each.lane.inference.room for each in passages}, passages[0].pool
    num_busy = pool.num_busy  # the feed of rows is one

    assert (status, len(passages)) == ([200, 200], 2)
    assert (await edge.ask(PATH, BODY))[0] == 429
    assert len(passages) == 2
    assert (room.num_requests, room.num_bytes, pool.num_busy) == (0, 0, num_busy)


async def test_both_ways_say_the_same(world, passages):
    """Name by name, what the door sends upstream and says to the client is what the lane does."""
    edge, near, _ = await on_lane(world, answers)
    told = []
    for path in ("/v1/chat/completions", "/v1/messages"):
        edge.pools[""].abort()
        told += [await edge.ask(path, BODY), await edge.ask(path, BODY)]
    heads = [dict(head.headers) for head, _ in near.requests]

    assert len(passages) == 2
    for door, short in (heads[:2], heads[2:]):
        assert list(door) == list(short)
        same = door.keys() - {"x-request-id", "x-nearfield-deadline-ms"}
        assert {name: door[name] for name in same} == {name: short[name] for name in same}
        assert 0 <= int(short["x-nearfield-deadline-ms"]) - int(door["x-nearfield-deadline-ms"]) < 5000
    for (_, door, body), (_, short, again) in (told[:2], told[2:]):
        assert door.keys() == short.keys()
        assert body == again


async def test_a_stream_passes_as_it_came(world, passages):
    parts = [b'data: {"n":%d}\n\n' % n for n in range(5)]
    edge, near, _ = await on_lane(world, streams(*parts, DONE, RECEIPT))
    status, headers, body = await edge.ask(PATH, STREAM_BODY)

    assert (status, headers["x-nearfield-region"]) == (200, near.name)
    assert body.startswith(b"".join([*parts, DONE, RECEIPT]))
    receipt = parse_receipt(events(body)[-1])
    assert (receipt["hop"], receipt["region"], receipt["replayed"]) == ("edge", near.name, [])
    assert receipt["phases"].keys() == {"read", "route", "first_byte", "stream"}
    assert [each.num_handed for each in passages] == [0]
    assert (await edge.ask(PATH, STREAM_BODY))[2].startswith(
        parts[0]
    )  # both connections are good for another


async def test_a_start_counts_what_is_under_way_on_a_lane(world, passages):
    edge, near, _ = await on_lane(world, answers)
    tier = ("regions", near.name, "body", "models", MODEL, "tier")
    for now in (Tier.REGION, Tier.RESIDENT):
        near.say({MODEL: served(tier=now)})
        await edge.until(lambda status, now=now: reduce(getitem, tier, status) == now.value)
    running = []

    async def looks(exchange, region):
        running.append(passages[-1].decision.start.num_running)
        await answers(exchange, region)

    near.script = looks
    for _ in range(3):
        assert (await edge.ask(PATH, BODY))[0] == 200

    [start] = {each.decision.start for each in passages}
    assert running == [1, 1, 1]
    assert (start.num_running, start.num_answered) == (0, 3)
    assert not any(each.decision.grounds for each in passages), "the next may have to go elsewhere"
    assert [each.num_handed for each in passages] == [0, 0, 0]


async def test_a_decision_stands_at_a_start_where_no_other_region_serves(world, passages):
    edge, near, far = await on_lane(world, answers)
    far.say({})
    await edge.until(lambda status: not status["regions"][far.name]["body"]["models"])
    tier = ("regions", near.name, "body", "models", MODEL, "tier")
    for now in (Tier.REGION, Tier.RESIDENT):
        near.say({MODEL: served(tier=now)})
        await edge.until(lambda status, now=now: reduce(getitem, tier, status) == now.value)
    for _ in range(9):
        assert (await edge.ask(PATH, BODY))[0] == 200

    assert len(passages) == 9
    assert {each.decision.start.num_running for each in passages} == {0}
    assert all(each.decision.grounds for each in passages)


async def test_what_differs_in_the_head_of_a_stream_is_passed_on(world, passages):
    """Most heads are those of the answer before; a line more, another region's word or a new second is another head."""

    def says(*more):
        async def script(exchange, region):
            region.requests.append((exchange.head, await exchange.read_body(2**21)))
            number = exchange.head.get("x-request-id")
            await exchange.start(
                200, (("content-type", "text/event-stream"), ("x-request-id", number), *more), first=EVENT
            )
            await exchange.finish(DONE + RECEIPT)

        return script

    edge, near, _ = await on_lane(world, says())
    first, second = (("x-told", "a"),), (("x-told", "b"), ("date", "Thu, 26 Nov 2026 16:00:00 GMT"))
    for more in ((), (), first, first, second, second, ()):
        near.script = says(*more)
        _, headers, body = await edge.ask(PATH, STREAM_BODY)
        assert headers["x-request-id"] == near.requests[-1][0].get("x-request-id")
        assert (headers.get("x-told"), body.count(EVENT)) == (dict(more).get("x-told"), 1)
        assert headers["date"] == dict(more).get("date", headers["date"])
    assert [each.num_handed for each in passages] == [0] * 7
    assert len({each.number for each in passages}) == 7


async def test_a_revoked_key_is_refused_on_known_and_on_new_connections(world, passages):
    edge, _, _ = await on_lane(world, answers)
    home = next(region for region in edge.regions.values() if region.home)
    home.keys = {digest: grant for digest, grant in POLICY_KEYS.items() if grant.tenant != "acme"}
    home.say_policy()
    async with asyncio.timeout(30):
        while (await edge.ask(PATH, BODY))[0] != 401:  # noqa: ASYNC110 - the far end of a connection
            await asyncio.sleep(0.02)
    num_taken = len(passages)

    status, _, body = await edge.ask(PATH, BODY)
    for each in ((status, body), await another(edge)):
        assert (each[0], code(each[1])) == (401, "invalid_api_key")
    assert len(passages) == num_taken


@pytest.mark.parametrize("script", [cuts, refuses(503, "worker_lost"), streams(ERROR % b"worker_lost")])
async def test_what_fails_on_it_is_replayed(world, passages, script):
    edge, _, far = await on_lane(world, script, streams(EVENT, DONE))
    status, headers, body = await edge.ask(PATH, STREAM_BODY)

    assert (status, headers["x-nearfield-region"]) == (200, far.name)
    assert body.startswith(EVENT + DONE)
    assert [each.num_handed for each in passages] == [1]


async def test_a_stream_that_breaks_ends_in_one_error(world, passages):
    edge, near, far = await on_lane(world, streams(EVENT, EVENT, then="cut"))
    status, _, body = await edge.ask(PATH, STREAM_BODY)

    *passed, error, receipt = events(body)
    assert (status, passed) == (200, [EVENT.decode().strip()] * 2)
    assert code(error.removeprefix("data: ")) == "upstream_failed"
    assert parse_receipt(receipt)["region"] == near.name
    assert far.requests == []
    assert [each.num_handed for each in passages] == [1]


@pytest.mark.parametrize(
    ("parts", "is_whole"),
    [
        ([EVENT + DONE + RECEIPT], True),
        ([EVENT, b'event: message_stop\ndata: {"type": "message_stop"}\n\n'], True),
        ([EVENT, DONE + RECEIPT, RECEIPT], True),
        ([EVENT, DONE + EVENT], None),
        ([EVENT, EVENT], False),
        ([EVENT], False),
        ([b"id: 1\n" + EVENT, b"id: 1\n" + EVENT, DONE], None),
    ],
)
async def test_an_end_passes_that_says_it_is_one(world, passages, parts, is_whole):
    """The same as the relay's for a head that has no lane, whoever says it."""
    edge, _, _ = await on_lane(world, streams(*parts))
    _, _, short = await edge.ask(PATH, STREAM_BODY)
    _, _, long = await edge.ask(PATH, STREAM_BODY, headers=(("x-other", "head"),))

    assert events(short)[:-1] == events(long)[:-1]
    assert (b"upstream_failed" in short) is (is_whole is False)
    assert [each.num_handed for each in passages] == [0 if is_whole else 1]


async def test_silence_is_handed_over(world, passages, monkeypatch):
    """Before the answer, and inside a stream: the rest is the relay's, and nothing is lost."""
    monkeypatch.setattr(passing, "LATE_S", 0.01)
    edge, near, far = await on_lane(world, late := streams(1.2, EVENT, DONE), late)
    first = await edge.ask(PATH, STREAM_BODY)
    near.script = far.script = streams(
        EVENT, 1.2, EVENT, DONE
    )  # of either: a busy machine may move distances
    second = await edge.ask(PATH, STREAM_BODY)

    assert first[2].startswith(EVENT + DONE)
    assert second[2].startswith(EVENT + EVENT + DONE)
    assert [each.num_handed for each in passages] == [1, 1]


async def test_a_client_that_leaves_ends_it(world, passages):
    edge, near, _ = await on_lane(world, streams(EVENT, then="hang"))
    answer = await edge.raw("POST", PATH, STREAM_BODY)
    assert await answer.next() == EVENT
    async with asyncio.timeout(30):
        while len(near.requests) < 2:  # noqa: ASYNC110 - until the script hangs, in another thread of control
            await asyncio.sleep(0.002)
    answer.abort()

    await asyncio.wait_for(near.cancelled.wait(), 30)
    assert len(passages) == 1


async def slowly(exchange, region):
    await asyncio.sleep(0.05)
    await answers(exchange, region)


async def test_a_request_behind_one_on_the_lane_waits_its_turn(world, passages):
    edge, near, _ = await on_lane(world, slowly)
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.pools[""].port, ssl=edge.tls)
    said = f"host: localhost\r\nauthorization: Bearer {USER}\r\ncontent-length: {len(BODY)}"
    head = f"POST {PATH} HTTP/1.1\r\n{said}\r\n\r\n"
    one = head.encode() + BODY
    writer.write(one)
    said = [await read_answer(reader)]
    for piece in (one, one[:100], one[100:] + one):  # the first on the lane, the others while it is under way
        writer.write(piece)
        await asyncio.sleep(0.01)
    said += [await read_answer(reader) for _ in range(3)]
    writer.close()

    assert [status for status, _ in said] == [200] * 4
    assert len(near.requests) == 4
    assert [each.num_handed for each in passages] == [0]


async def read_answer(reader):
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.split("content-length: ")[1].split("\r\n")[0])
    return int(head.split(" ")[1]), await reader.readexactly(length)


async def test_each_request_of_a_lane_asks_for_the_near_region_to_be_woken(world, passages, monkeypatch):
    """Which of them is an order is said by the pause between orders: who is told of one alone never wakes it again."""
    asked, told = [], []
    edge, near, _ = await on_lane(world, answers)
    monkeypatch.setattr(Decision, "prewarm", lambda decision: near.name)
    monkeypatch.setattr(Orders, "prewarm", lambda _, region, *rest: asked.append(region))
    terms = Decision.terms
    monkeypatch.setattr(Decision, "terms", lambda decision: told.append(1) or terms(decision))
    near.say({MODEL: served(running=1)})
    await edge.until(lambda s: s["regions"][near.name]["body"]["models"][MODEL]["running"] == 1)
    await edge.ask(PATH, STREAM_BODY)
    asked.clear(), passages.clear(), told.clear()
    for _ in range(3):
        await edge.ask(PATH, STREAM_BODY)

    assert len(passages) == 3
    assert asked == [near.name] * 3
    assert len(told) <= 1  # but for a row that came between them
