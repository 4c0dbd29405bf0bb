import asyncio
import json
import time

import pytest

from regions.gateway.hold import Pace, Seats, comment
from regions.map.region import Progress
from tests.regions.fake_node import event, region, revision, until
from wire.refused.refusal import Refusal


def code(body):
    return json.loads(body)["error"]["code"]


async def test_gateway_fifty_waiters_wake_a_model_once():
    async with region() as r:
        fake = r.fakes[0]
        fake.go.clear()
        asked = [asyncio.create_task(r.answer()) for _ in range(50)]
        await until(lambda: r.gateway.seats.num_held == 50)
        fake.go.set()
        answers = await asyncio.gather(*asked)

        assert {head.status for head, _ in answers} == {200}
        assert len(fake.loads) == 1
        assert fake.loads[0]["reason"] == "request"
        assert fake.loads[0]["idle_timeout_s"] == 9.0
        assert {head.get("x-nearfield-start") for head, _ in answers} == {"region"}
        assert {head.get("x-nearfield-start") for head, _ in fake.requests} == {"region"}
        assert (r.gateway.seats.num_held, r.gateway.seats.num_bytes) == (0, 0)


@pytest.mark.parametrize("wait", [{"x-nearfield-wait": "0.2"}, {"x-nearfield-deadline-ms": "300"}])
async def test_gateway_a_held_request_is_503_with_retry_after_when_its_time_is_up(wait):
    async with region() as r:
        r.fakes[0].go.clear()
        began = time.monotonic()
        head, body = await r.answer(headers=tuple(wait.items()))

        assert (head.status, code(body)) == (503, "model_not_ready")
        assert head.get("retry-after") == "2"
        assert b"fetch, 10 %" in body
        assert 0.15 < time.monotonic() - began < 30
        assert r.gateway.seats.num_held == 0


async def test_gateway_the_wake_goes_on_when_the_one_who_waited_left():
    async with region() as r:
        r.fakes[0].go.clear()
        await r.answer(headers=(("x-nearfield-wait", "0.1"),))
        asked = asyncio.create_task(r.answer())
        await until(lambda: r.gateway.seats.num_held == 1)
        r.fakes[0].go.set()

        assert (await asked)[0].status == 200
        assert len(r.fakes[0].loads) == 1


async def test_gateway_a_client_that_leaves_while_held_frees_its_seat_and_reaches_no_node():
    async with region() as r:
        r.fakes[0].go.clear()
        asked = asyncio.create_task(r.ask())
        await until(lambda: r.gateway.seats.num_held == 1)
        asked.cancel()
        await until(lambda: r.gateway.seats.num_held == 0)
        assert r.deployment.leases == {}
        r.fakes[0].go.set()
        await until(lambda: not r.wakes.running)

        assert r.fakes[0].requests == []


async def test_gateway_a_held_stream_gets_comments_at_most_four_a_second_then_its_answer():
    async with region() as r:
        fake = r.fakes[0]

        async def load(exchange):
            await exchange.start(200, ())
            for n in range(100):
                await fake.line(exchange, phase="fetch", percent=n, eta_s=1.0 - n / 100)
                await asyncio.sleep(0.01)
            fake.resident.add(r.revision.id)
            await fake.line(
                exchange, phase="ready", start="region", phases={"fetch": 3.0}, bytes={"region": 16}
            )
            await exchange.finish()

        fake.load_script = load
        began = time.monotonic()
        head, body = await r.answer(stream=True)
        took_s = time.monotonic() - began

    parts = body.decode().split("\n\n")
    comments = [json.loads(part.removeprefix(": nearfield ")) for part in parts if '"phase"' in part]
    receipt = json.loads(parts[-2].removeprefix(": nearfield "))
    assert head.get("content-type") == "text/event-stream"
    assert head.get("x-nearfield-start") == "region"
    assert 2 <= len(comments) <= took_s * 4
    assert all(set(each) == {"phase", "percent", "eta_s"} for each in comments)
    assert comments[0]["phase"] == "fetch"
    assert [each["percent"] for each in comments] == sorted(each["percent"] for each in comments)
    assert parts[len(comments)] == 'data: {"n": 0}'
    assert receipt["start"] == "region"
    assert list(receipt["start_phases"]) == ["fetch", "order"]
    assert receipt["start_phases"]["fetch"] == 3.0
    assert sum(receipt["start_phases"].values()) == pytest.approx(receipt["start_total_ms"], abs=0.01)
    assert receipt["start_total_ms"] <= receipt["eta"]["took_ms"] <= took_s * 1e3
    assert receipt["bytes"] == {"region": 16}
    phases = receipt["phases"]
    assert phases["wake"] > 900
    assert " ".join(phases) == "read pick wake heard connect send first_byte stream finish"
    assert (
        receipt["start_total_ms"] <= phases["wake"] + 0.01 <= receipt["start_total_ms"] + phases["heard"] + 5
    )
    assert 0 < phases["heard"] < 0.5 * phases["wake"]
    assert sum(phases.values()) == pytest.approx(receipt["total_ms"], rel=0.01)


async def test_gateway_a_held_stream_whose_time_is_up_ends_with_one_error_event():
    async with region() as r:
        r.fakes[0].go.clear()
        head, body = await r.answer(stream=True, headers=(("x-nearfield-wait", "0.6"),))

    events = [part for part in body.decode().split("\n\n") if part.startswith("data: ")]
    assert head.status == 200
    assert [json.loads(each[6:])["error"]["code"] for each in events] == ["model_not_ready"]


async def test_gateway_an_error_of_the_node_after_comments_is_an_error_event_with_its_code():
    async with region() as r:
        fake = r.fakes[0]
        fake.go.clear()

        async def long(exchange, question):
            raise Refusal(400, "context_length_exceeded", "Too long by 3 tokens.", param="messages")

        fake.answer = long
        asked = asyncio.create_task(r.answer(stream=True))
        await until(lambda: r.gateway.seats.num_held == 1)
        await asyncio.sleep(0.6)
        fake.go.set()
        head, body = await asked

    errors = [json.loads(part[6:]) for part in body.decode().split("\n\n") if part.startswith("data: ")]
    assert head.status == 200
    assert errors == [
        {
            "error": {
                "message": "Too long by 3 tokens.",
                "type": "invalid_request_error",
                "param": "messages",
                "code": "context_length_exceeded",
            }
        }
    ]


async def test_gateway_more_held_requests_than_seats_are_turned_away():
    async with region(seats=Seats(2, 1000)) as r:
        r.fakes[0].go.clear()
        held = [asyncio.create_task(r.answer()) for _ in range(2)]
        await until(lambda: r.gateway.seats.num_held == 2)
        head, body = await r.answer()
        assert (head.status, code(body), head.get("retry-after")) == (503, "overloaded", "1")

        r.fakes[0].go.set()
        assert [head.status for head, _ in await asyncio.gather(*held)] == [200, 200]


async def test_gateway_a_request_that_a_node_did_not_start_wakes_the_model_once_and_is_sent_again():
    async with region() as r:
        await r.resident()
        r.fakes[0].resident.clear()
        r.fakes[0].cached.add(r.revision.id)
        head, _body = await r.answer()

        assert head.status == 200
        assert len(r.fakes[0].loads) == 1
        assert len(r.fakes[0].requests) == 2
        assert head.get("x-nearfield-start") == "host"


async def test_gateway_a_model_that_leaves_its_worker_again_and_again_is_503():
    async with region() as r:
        await r.resident()
        fake = r.fakes[0]

        async def forgetful(exchange):
            await exchange.start(200, ())
            await fake.line(exchange, phase="ready", start="resident")
            await exchange.finish()

        fake.resident.clear()
        fake.load_script = forgetful
        head, body = await r.answer()

        assert (head.status, code(body)) == (503, "model_not_ready")
        assert len(fake.requests) == 2


async def test_gateway_a_node_that_is_gone_is_left_for_another_before_anything_was_sent():
    async with region(num_nodes=2) as r:
        first = min(r.fakes, key=lambda each: each.address)
        other = next(each for each in r.fakes if each is not first)
        first.resident.add(r.revision.id)
        await r.watch.refresh()
        await first.server.close()
        head, _body = await r.answer()

        assert head.status == 200
        assert len(other.loads) == 1
        assert set(r.deployments.nodes) == {other.address}


async def test_gateway_a_region_without_a_node_says_so():
    async with region() as r:
        await r.fakes[0].server.close()
        r.watch.lost(r.fakes[0].address)
        head, body = await r.answer()

        assert (head.status, code(body)) == (503, "region_unavailable")


async def test_gateway_a_failed_load_is_tried_on_another_node_then_told():
    async with region(num_nodes=2) as r:
        for fake in r.fakes:

            async def fail(exchange, fake=fake):
                await exchange.start(200, ())
                fault = {"code": "does_not_fit", "message": "it needs 9 GB", "next": "Take a smaller dtype."}
                await fake.line(exchange, phase="failed", **fault)
                await exchange.finish()

            fake.load_script = fail
        head, body = await r.answer()

        assert (head.status, code(body)) == (502, "upstream_failed")
        assert b"it needs 9 GB" in body
        assert [len(fake.loads) for fake in r.fakes] == [1, 1]


async def test_gateway_a_failed_wake_rests_before_the_next_one():
    async with region() as r:
        fake = r.fakes[0]

        async def fail(exchange):
            await exchange.start(200, ())
            await fake.line(exchange, phase="failed", code="crashed", message="exit 1", next="")
            await exchange.finish()

        fake.load_script = fail
        await r.answer()
        again = asyncio.create_task(r.answer())
        await asyncio.sleep(0.3)
        assert len(fake.loads) == 1
        fake.load_script = fake.usual_load

        assert (await again)[0].status == 200


async def test_gateway_a_model_only_at_home_is_pulled_once_and_its_remote_bytes_are_told():
    async with region() as r:
        r.deployment.in_region = False
        r.blobs.gate.clear()
        asked = [asyncio.create_task(r.answer()) for _ in range(5)]
        await until(lambda: r.gateway.seats.num_held == 5)
        r.blobs.gate.set()
        answers = await asyncio.gather(*asked)
        after, _ = await r.answer()

        assert r.blobs.num_ensured == 1
        assert {h.get("x-nearfield-start") for h, _ in answers} == {"origin"}
        assert {h.get("x-nearfield-remote-bytes") for h, _ in answers} == {"16"}
        assert after.get("x-nearfield-remote-bytes") == "0"
        assert all("gateway.start.pull;dur=" in h.get("server-timing") for h, _ in answers)
        assert "gateway.start.pull" not in after.get("server-timing")


async def test_gateway_a_streams_receipt_says_how_long_the_pull_from_home_took():
    async with region() as r:
        r.deployment.in_region = False
        _, body = await r.answer(stream=True)

    receipt = json.loads(body.decode().split("\n\n")[-2].removeprefix(": nearfield "))
    assert set(receipt["start_phases"]) == {"pull", "fetch", "order"}
    assert (receipt["start"], receipt["remote_bytes"]) == ("origin", 16)


async def test_gateway_a_pull_from_a_home_that_is_gone_is_503_for_all():
    async with region() as r:
        r.deployment.in_region = False
        r.blobs.fails = Refusal(503, "region_unavailable", "Home is away.", "server_error")
        answers = await asyncio.gather(*(r.answer() for _ in range(3)))

        assert {(h.status, code(b)) for h, b in answers} == {(503, "region_unavailable")}


async def test_gateway_progress_of_the_pull_is_told_while_it_runs():
    async with region() as r:
        r.deployment.in_region = False
        r.deployment.progress = Progress("replicate", 42.0, 3.0)
        r.blobs.gate.clear()
        answer = await r.ask(stream=True)

        assert await answer.next(60.0) == comment(Progress("replicate", 42.0, 3.0))
        answer.abort()
        r.blobs.gate.set()


async def test_gateway_a_request_keeps_the_revision_it_came_with_when_a_newer_one_goes_live():
    async with region() as r:
        r.fakes[0].go.clear()
        asked = asyncio.create_task(r.answer())
        await until(lambda: r.gateway.seats.num_held == 1)
        old, r.deployment.live = r.revision, revision(salt="2")
        assert r.deployment.leases == {old.id: 1}
        r.fakes[0].go.set()
        head, _ = await asked

        assert head.get("x-nearfield-revision") == old.id


def test_gateway_comments_have_their_form():
    assert comment(Progress("fetch", 61.7, 1.234)) == (
        b': nearfield {"phase": "fetch", "percent": 62, "eta_s": 1.2}\n\n'
    )
    assert comment(Progress("queue", 0.0)).count(b"null") == 1
    assert not comment(Progress("fetch", 1.0)).startswith(event({})[:5])


def test_gateway_the_pace_says_what_is_new_and_otherwise_one_a_second():
    pace = Pace()
    at = [(0.0, 5.0), (0.25, 5.4), (0.5, 6.0), (0.75, 6.0), (1.4, 6.0), (1.5, 6.0), (1.75, 6.0)]

    assert [pace.due(Progress("fetch", percent), now) for now, percent in at] == [
        True,
        False,
        True,
        False,
        False,
        True,
        False,
    ]


def test_gateway_seats_are_bounded_in_number_and_in_bytes_and_given_back():
    seats = Seats(2, 100)
    with seats.seat(60), pytest.raises(Refusal), seats.seat(41):
        pass
    with seats.seat(1), seats.seat(1), pytest.raises(Refusal), seats.seat(1):
        pass

    assert (seats.num_held, seats.num_bytes) == (0, 0)
