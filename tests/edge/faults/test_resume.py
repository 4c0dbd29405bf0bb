"""A stream whose region dies goes on in another one, with no token lost and none twice, for clients that ask."""

import asyncio
import json
from dataclasses import replace

import pytest

from edge.relay.patience import Patience
from edge.relay.resume import GroupLostError, Resumption
from tests.edge.faults import scripts
from tests.edge.faults.test_faults import QUESTION, judged_stream
from tests.edge.test_bounds import metrics
from wire.dial import DialError

RESUME = (("x-nearfield-resume", "true"),)
REVISION = ("x-nearfield-revision", "a" * 64)
HEAD = b': nf-head {"id": "c", "created": 7}\n\n'
LOST = b'data: {"error": {"message": "m", "type": "server_error", "param": null, "code": "worker_lost"}}\n\n'
PATIENCE = Patience(first_byte_s=30.0, between_s=30.0, total_s=60.0)
SHORT = replace(PATIENCE, first_byte_s=1.0, between_s=1.0)


def group(n, region="any"):
    """Token `n` of the answer and its event; the one after the last has the end's."""
    return b": nf %d 1 %d\n%b" % (n, 100 + n, scripts.chunk(n, region))


def numbers(num=scripts.NUM_TOKENS, then="finish", at_once=True, tail=b""):
    """A script: a region that numbers its stream and goes on with others'; `num` more tokens, then `then`."""

    async def script(exchange, region):
        body = json.loads(await exchange.read_body(2**21))
        region.requests.append((exchange.head, body))
        told = body.get("nearfield_resume", {"tokens": []})
        start = len(told["tokens"])
        assert told["tokens"] == [100 + n for n in range(start)]
        await exchange.start(200, (*scripts.SSE, REVISION))
        await exchange.write(HEAD)
        for n in range(start, min(start + num, scripts.NUM_TOKENS)):
            await exchange.write(group(n))
            await asyncio.sleep(0.002)
        if tail:
            await exchange.write(tail)
        await end(exchange, then)

    return script


async def end(exchange, then):
    await scripts.arrived()
    if then == "cut":
        exchange.abort()
    elif then == "hang":
        await asyncio.sleep(100)
    elif then == "lost":
        await exchange.finish(LOST)
    else:
        await exchange.finish(scripts.DONE)


async def begun(world, first, second, patience=PATIENCE, **options):
    edge = await world(patience=patience, **options)
    for region in edge.regions.values():
        region.script = scripts.well
    _, headers, _ = await edge.ask(body=json.dumps(QUESTION).encode())
    near = headers["x-nearfield-region"]
    far = next(name for name in edge.regions if name != near)
    edge.regions[near].script, edge.regions[far].script = first, second
    for region in edge.regions.values():
        region.requests.clear()
    return edge, edge.regions[near], edge.regions[far]


async def stream(edge, headers=RESUME):
    body = json.dumps(QUESTION | {"stream": True, "temperature": 0}).encode()
    status, _, said = await edge.ask(body=body, headers=headers)
    assert status == 200
    return said


def events(said):
    return [part for part in said.split(b"\n\n") if part and not part.startswith(b":")]


@pytest.mark.parametrize("num", [1, 5, scripts.NUM_TOKENS])
@pytest.mark.parametrize("then", ["cut", "hang", "lost"])
async def test_a_death_midway_is_none_for_a_client_that_asked(world, num, then):
    edge, near, far = await begun(world, numbers(num, then), numbers(), SHORT if then == "hang" else PATIENCE)
    undisturbed = [
        each + b"\n\n" for each in events(b"".join(scripts.chunk(n, "any") for n in range(12)) + scripts.DONE)
    ]
    said = await stream(edge)

    assert b"".join(each + b"\n\n" for each in events(said)) == b"".join(undisturbed)  # byte by byte
    assert judged_stream(said) == "any"
    assert b": nf" not in said
    told = far.requests[0][1]["nearfield_resume"]
    assert (told["id"], told["created"], len(told["tokens"])) == ("c", 7, num)
    assert told["finished"] is (num == scripts.NUM_TOKENS)
    assert {k: v for k, v in far.requests[0][1].items() if k != "nearfield_resume"} == near.requests[0][1]
    heads = [dict(region.requests[0][0].headers) for region in (near, far)]
    assert [head["x-nearfield-resume"] for head in heads] == ["watch", "go"]
    assert heads[1]["x-nearfield-revision"] == "a" * 64
    assert (await metrics(edge))[f'nearfield_edge_resumed_streams_total{{region="{near.name}"}}'] == 1


async def test_half_a_step_is_no_step(world):
    """The line of a step and the first of its two events came: the client had none of it, and gets both once."""
    half = b": nf 3 2 103\n" + scripts.chunk(3, "any")
    edge, _, far = await begun(world, numbers(3, "cut", tail=half), numbers())
    said = await stream(edge)

    assert judged_stream(said) == "any"
    assert len(far.requests[0][1]["nearfield_resume"]["tokens"]) == 3


async def test_steps_said_twice_are_passed_on_once(world):
    edge, _, far = await begun(
        world, numbers(4, tail=group(2) + group(3) + b"".join(map(group, range(4, 12)))), numbers()
    )

    assert judged_stream(await stream(edge)) == "any"
    assert far.requests == []


async def test_a_step_that_is_missing_ends_in_one_clear_error_or_elsewhere(world):
    edge, _, _ = await begun(world, numbers(4, tail=group(6)), numbers())

    assert judged_stream(await stream(edge)) == "any"


async def test_without_the_header_or_without_numbers_it_is_one_clear_error(world):
    edge, _, far = await begun(world, scripts.cut_midway, numbers())

    assert judged_stream(await stream(edge, ())) == "6 tokens, then upstream_failed"
    assert far.requests == []
    assert judged_stream(await stream(edge)) == "6 tokens, then upstream_failed"


async def test_nobody_who_can_go_on_is_one_clear_error_too(world):
    edge, _, _ = await begun(world, numbers(5, "cut"), scripts.refusing(409, "not_resident"))

    assert judged_stream(await stream(edge)) == "5 tokens, then not_resident"


async def test_a_second_death_is_outlived_by_a_third_region(world):
    edge, _, _ = await begun(world, numbers(3, "cut"), numbers(3, "cut"), names=("iad", "fra", "nrt"))
    third = [region for region in edge.regions.values() if region.script is scripts.well]
    third[0].script = numbers()

    assert judged_stream(await stream(edge)) == "any"


async def test_a_client_that_leaves_while_it_goes_on_frees_the_region(world):
    edge, _, far = await begun(world, numbers(3, "cut"), numbers(2, "hang"))
    asked = asyncio.ensure_future(stream(edge))
    async with asyncio.timeout(60):
        while not far.requests:  # noqa: ASYNC110 - a script sends no event
            await asyncio.sleep(0.005)
    asked.cancel()
    with pytest.raises((asyncio.CancelledError, DialError)):
        await asked


def test_what_is_no_line_of_ours_is_refused():
    for line in (b": nf x 1 2\n\n", b": nf 0\n\n", b": nf \n\n"):
        client = Resumption()
        client.begin("a" * 64)
        with pytest.raises(GroupLostError):
            client.take(line)


def test_comments_between_the_events_of_a_step_pass_and_count_for_none():
    client = Resumption()
    client.begin("a" * 64)
    assert client.take(HEAD + b": nf 0 2 5\n" + b"data: 1\n\n") == b""
    assert client.take(b":\n\n") == b":\n\n"
    assert client.take(b"data: 2\n\n") == b"data: 1\n\ndata: 2\n\n"
    assert client.tokens == [5]
