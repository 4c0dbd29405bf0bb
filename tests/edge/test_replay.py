"""When a region fails: replay before the first event, one clear error after it, never silence."""

import asyncio
import json

import pytest

from edge.relay.patience import Patience
from tests.edge.world import (
    MODEL,
    STREAM_BODY,
    answers,
    code,
    cuts,
    hangs,
    refuses,
    streams,
)
from wire.dial import DialError
from wire.timing import parse_receipt
from wire.ways import way as reach

COMMENT = b': nearfield {"phase":"fetch","percent":50}\n\n'
EVENT = b'data: {"n":1}\n\n'
DONE = b"data: [DONE]\n\n"
ERROR = b'data: {"error": {"message": "m", "type": "server_error", "param": null, "code": "%b"}}\n\n'


async def two(world, first, second=answers, **options):
    """An edge whose first choice runs `first` and whose second runs `second`: (edge, first's name, second's)."""
    edge = await world(**options)
    _, headers, _ = await edge.ask()  # hysteresis keeps this region first from now on
    near = headers["x-nearfield-region"]
    far = next(name for name in edge.regions if name != near)
    edge.regions[near].script, edge.regions[far].script = first, second
    for region in edge.regions.values():
        region.requests.clear()
        region.asked.clear()
    return edge, edge.regions[near], edge.regions[far]


def events(body):
    return [block for block in body.decode().split("\n\n") if block]


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        (cuts, "head"),
        (refuses(503, "model_not_ready"), "model_not_ready"),
        (refuses(503, "worker_lost"), "worker_lost"),
        (refuses(409, "not_resident"), "not_resident"),
        (refuses(502, "upstream_failed"), "upstream_failed"),
        (refuses(500, "internal_error"), "internal_error"),
        (refuses(429, "overloaded"), "overloaded"),
        (refuses(504, "deadline_exceeded"), "deadline_exceeded"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_before_the_first_byte_another_region_answers(world, script, cause, stream):
    edge, near, far = await two(world, script, streams(EVENT, DONE) if stream else answers)
    status, headers, body = await edge.ask("/v1/completions", STREAM_BODY)

    assert status == 200
    assert headers["x-nearfield-region"] == far.name
    assert headers["x-nearfield-route"].endswith(f"; replayed={near.name}({cause})")
    assert len(near.requests) in {1, 2}  # a reset on a kept connection is tried once more by the dialler
    assert len(far.requests) == 1
    assert near.requests[0][1] == far.requests[0][1] == STREAM_BODY
    assert (
        dict(near.requests[0][0].headers)["x-request-id"] == dict(far.requests[0][0].headers)["x-request-id"]
    )
    tries = [dict(region.requests[0][0].headers)["x-nearfield-attempt"] for region in (near, far)]
    assert tries == ["0", "1"]
    if stream:
        assert parse_receipt(events(body)[-1])["replayed"] == [f"{near.name}({cause})"]


async def test_a_killed_region_is_replaced_in_the_same_request(world):
    edge, near, far = await two(world, answers)
    await near.kill()
    for _ in range(5):
        status, headers, body = await edge.ask()
        assert (status, json.loads(body)) == (200, {"from": far.name})
        assert headers["x-nearfield-region"] == far.name
    await edge.until(lambda s: s["regions"][near.name]["breaker"] == "open")
    _, headers, _ = await edge.ask()
    assert "replayed" not in headers["x-nearfield-route"]  # an ejected region is not asked first

    await near.start()
    await edge.until(lambda s: s["regions"][near.name]["breaker"] == "closed")


async def test_a_region_whose_probe_is_refused_is_not_asked_first(world, monkeypatch):
    monkeypatch.setattr(reach, "PROBE_PERIOD_S", 0.05)
    monkeypatch.setattr(reach, "PROBE_AGAIN_S", 0.05)
    edge, near, far = await two(world, answers)
    await near.kill()
    await edge.until(lambda s: s["regions"][near.name]["breaker"] == "open")  # without a request
    _, headers, _ = await edge.ask()
    assert headers["x-nearfield-region"] == far.name
    assert "replayed" not in headers["x-nearfield-route"]
    await near.start()
    await edge.until(lambda s: s["regions"][near.name]["breaker"] == "closed")


async def test_the_answers_that_are_final_are_passed_on(world):
    edge, near, far = await two(world, answers)
    for status, said in ((400, "context_length_exceeded"), (404, "model_not_found"), (422, "invalid_value")):
        near.script = refuses(status, said)
        told, headers, body = await edge.ask()
        assert (told, code(body), headers["x-nearfield-region"]) == (status, said, near.name)
    assert far.requests == []


async def test_when_all_fail_the_last_words_are_told(world):
    edge, near, far = await two(world, cuts, refuses(503, "model_not_ready"))
    status, headers, body = await edge.ask()

    assert (status, code(body), headers["retry-after"]) == (503, "model_not_ready", "7")
    assert headers["x-nearfield-region"] == far.name
    assert f"replayed={near.name}(head); replayed={far.name}(model_not_ready)" in headers["x-nearfield-route"]


async def test_there_is_one_budget(world):
    edge = await world(names=("iad", "fra", "nrt", "lhr", "syd"))
    for region in edge.regions.values():
        region.script = cuts
    status, _, body = await edge.ask()

    assert (status, code(body)) == (503, "region_unavailable")
    assert sum(len(region.requests) for region in edge.regions.values()) == 3


@pytest.mark.parametrize("then", ["cut", "hang"])
async def test_comments_do_not_commit(world, then):
    edge, near, far = await two(
        world,
        streams(COMMENT, COMMENT, then=then),
        streams(EVENT, DONE),
        patience=Patience(first_byte_s=1.0),
    )
    status, _, body = await edge.ask("/v1/completions", STREAM_BODY)
    told = events(body)

    assert status == 200
    assert told[:4] == [COMMENT.decode().strip()] * 2 + [EVENT.decode().strip(), "data: [DONE]"]
    receipt = parse_receipt(told[4])
    assert (receipt["region"], receipt["replayed"]) == (far.name, [f"{near.name}(body)"])
    assert len(told) == 5


async def test_a_first_event_cut_in_the_middle_commits_nothing(world):
    edge, _, far = await two(world, streams(COMMENT, b'data: {"n"', then="cut"), streams(EVENT, DONE))
    _, _, body = await edge.ask("/v1/completions", STREAM_BODY)

    assert events(body)[1] == EVENT.decode().strip()
    assert parse_receipt(events(body)[-1])["region"] == far.name


@pytest.mark.parametrize("said", [b"model_not_ready", b"worker_lost"])
async def test_an_error_as_first_event_is_replayed(world, said):
    edge, near, far = await two(world, streams(COMMENT, ERROR % said), streams(EVENT, DONE))
    _, _, body = await edge.ask("/v1/completions", STREAM_BODY)

    assert events(body)[1] == EVENT.decode().strip()
    assert parse_receipt(events(body)[-1])["replayed"] == [f"{near.name}({said.decode()})"]
    assert parse_receipt(events(body)[-1])["region"] == far.name


async def test_an_error_event_of_the_caller_is_not_replayed(world):
    edge, _, far = await two(world, streams(COMMENT, ERROR % b"context_length_exceeded"))
    _, _, body = await edge.ask("/v1/completions", STREAM_BODY)

    assert "context_length_exceeded" in events(body)[1]
    assert far.requests == []


async def test_after_comments_a_late_refusal_is_one_error_event(world):
    edge, _, _ = await two(world, streams(COMMENT, then="cut"), refuses(404, "model_not_found"))
    status, _, body = await edge.ask("/v1/completions", STREAM_BODY)
    told = events(body)

    assert status == 200
    assert code(told[1].removeprefix("data: ")) == "model_not_found"
    assert parse_receipt(told[2])["hop"] == "edge"


async def test_after_comments_when_all_fail_it_is_one_error_event(world):
    edge, _, _ = await two(world, streams(COMMENT, then="cut"), cuts)
    _, _, body = await edge.ask("/v1/completions", STREAM_BODY)
    told = events(body)

    assert [code(told[1].removeprefix("data: ")), len(told)] == ["region_unavailable", 3]


@pytest.mark.parametrize("tail", [b"", b'data: {"half'])
async def test_after_the_first_event_a_death_is_one_error_event(world, tail):
    edge, near, far = await two(world, streams(EVENT, *([tail] if tail else []), then="cut"))
    status, headers, body = await edge.ask("/v1/completions", STREAM_BODY)
    told = events(body)

    assert (status, headers["x-nearfield-region"]) == (200, near.name)
    assert told[0] == EVENT.decode().strip()
    assert code(told[1].removeprefix("data: ")) == "upstream_failed"
    assert parse_receipt(told[2])["hop"] == "edge"
    assert len(told) == 3
    assert far.requests == []


async def test_a_whole_answer_cut_in_its_body_is_replayed(world):
    async def half(exchange, region):
        await exchange.read_body(2**20)
        await exchange.start(200, (("content-type", "application/json"),), 100)
        await exchange.write(b"{")
        await asyncio.sleep(0.02)
        exchange.abort()

    edge, _, far = await two(world, half)
    status, headers, body = await edge.ask()

    assert (status, json.loads(body)) == (200, {"from": far.name})
    assert headers["x-nearfield-region"] == far.name


@pytest.mark.parametrize("room", [2**20, 2**24])
async def test_a_large_answer_cut_in_its_body_is_replayed_where_there_is_room_for_it(world, room):
    """Without room its first pieces are on their way already, and the client's connection is cut."""

    async def half(exchange, region):
        await exchange.read_body(2**20)
        await exchange.start(200, (("content-type", "application/json"),), 3 * 2**20)
        await exchange.write(b"x" * 2**20)
        await asyncio.sleep(0.02)
        exchange.abort()

    edge, _, far = await two(world, half, max_held_bytes=room)
    if room > 2**20:
        assert (await edge.ask())[1]["x-nearfield-region"] == far.name
        return
    with pytest.raises(DialError) as error:
        await edge.ask()

    assert error.value.phase == "body"
    assert far.requests == []


@pytest.mark.parametrize("script", [hangs, streams(COMMENT, then="hang"), streams(EVENT, then="hang")])
async def test_a_client_that_leaves_cancels_the_region(world, script):
    edge = await world(names=("iad",))
    edge.regions["iad"].script = script
    asking = asyncio.ensure_future(edge.ask("/v1/completions", STREAM_BODY))
    await edge.regions["iad"].asked.wait()
    await asyncio.sleep(0.03)
    asking.cancel()

    await asyncio.wait_for(edge.regions["iad"].cancelled.wait(), 30)


async def test_a_deadline_is_a_504(world):
    edge, near, far = await two(world, hangs, special_patience={MODEL: Patience(total_s=0.2)})
    status, _, body = await edge.ask()

    assert (status, code(body)) == (504, "deadline_exceeded")
    assert far.requests == []
    assert (await edge.status())["regions"][near.name][
        "breaker"
    ] == "closed"  # a long answer is no sick region


@pytest.mark.parametrize("script", [hangs, streams(COMMENT, then="hang"), streams(EVENT, then="hang")])
async def test_a_region_that_freezes_is_found_by_its_probe(world, monkeypatch, script):
    monkeypatch.setattr(reach, "PROBE_S", 0.1)
    monkeypatch.setattr(reach, "PROBE_PERIOD_S", 0.1)
    monkeypatch.setattr(reach, "SILENT_PROBES", 2)
    edge, near, far = await two(world, script, streams(b"data: 2\n\n", DONE))
    asking = asyncio.ensure_future(edge.ask("/v1/completions", STREAM_BODY))
    await near.asked.wait()
    near.frozen.set()
    _, _, body = await asyncio.wait_for(asking, 30)

    if EVENT in body:
        assert code(events(body)[1].removeprefix("data: ")) == "upstream_failed"
    else:
        assert b"data: 2" in body
        assert parse_receipt(events(body)[-1])["region"] == far.name
