"""Every fault that a region can have, through the real edge, streamed and not: a right answer or one clear error.

One table. `main` is what a client of the edge gets while another region is well, `alone` what one gets who may only be
served by the faulty region; each for a stream and for a whole answer. Never: a silent cut, half an answer passed off as
one, a token twice or none where it belongs, or a wait beyond the deadline.
"""

import asyncio
import json
import time
from dataclasses import replace
from hashlib import sha256
from typing import NamedTuple

import pytest

from edge.relay import holdoff
from edge.relay.patience import Patience
from regions.map.headers import ASK
from regions.map.policy import KeyGrant
from tests.edge.faults import scripts
from tests.edge.world import MODEL, POLICY_KEYS
from tests.wire.certs import make_certificate
from wire.secured.tls import client_context, hop_name, server_context
from wire.upstreams import resolve

PATIENCE = Patience(connect_s=30.0, first_byte_s=30.0, between_s=30.0, total_s=60.0)
SHORT = replace(PATIENCE, first_byte_s=1.0, between_s=1.0)
"""Where silence is the fault, or what is no silence; elsewhere a machine that stands still must be none."""
QUESTION = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
RETRY = ("retry-after", "1")


class Fault(NamedTuple):
    """`script` is the region's, `strike` what is done to it when it is chosen already."""

    name: str
    main: tuple[str, str]
    alone: tuple[str, str]
    script: object = scripts.well
    strike: str = ""
    patience: Patience = PATIENCE


GONE = "503 region_unavailable"
FAILED = "502 upstream_failed"
SILENT = "504 upstream_timeout"
EVENT = "6 tokens, then upstream_failed"

FAULTS = (
    #     fault                    stream, whole          alone: stream, whole
    Fault("refused", ("far", "far"), (GONE, GONE), strike="kill"),
    Fault("reset before the head", ("far", "far"), (GONE, GONE), scripts.reset_before_head),
    Fault("reset after the head", ("far", "far"), (FAILED, FAILED), scripts.reset_after_head),
    Fault(
        "stall before the head", ("far", "far"), (SILENT, SILENT), scripts.stall_before_head, patience=SHORT
    ),
    Fault("stall midway", (EVENT, "far"), (EVENT, SILENT), scripts.stall_midway, patience=SHORT),
    Fault("cut midway", (EVENT, "far"), (EVENT, FAILED), scripts.cut_midway),
    Fault("truncated, 200", (EVENT, "far"), (EVENT, FAILED), scripts.truncated),
    Fault("garbage", ("far", "far"), (FAILED, FAILED), scripts.garbage),
    Fault("garbage midway", (EVENT, "far"), (EVENT, FAILED), scripts.garbage_midway),
    Fault(
        "429 with Retry-After",
        ("far", "far"),
        ("429 overloaded", "429 overloaded"),
        scripts.refusing(429, "overloaded", RETRY),
    ),
    Fault(
        "503 with Retry-After",
        ("far", "far"),
        ("503 model_not_ready", "503 model_not_ready"),
        scripts.refusing(503, "model_not_ready", RETRY),
    ),
    Fault(
        "500",
        ("far", "far"),
        ("500 internal_error", "500 internal_error"),
        scripts.refusing(500, "internal_error"),
    ),
    Fault("500 and a page", ("far", "far"), ("500 upstream_failed", "500 upstream_failed"), scripts.page_500),
    Fault("slow first token", ("far", "far"), (SILENT, SILENT), scripts.slow_first_token, patience=SHORT),
    Fault("slow and alive", ("near", "near"), ("near", "near"), scripts.slow_and_alive, patience=SHORT),
    Fault("wrong length", (EVENT, "far"), (EVENT, FAILED), scripts.wrong_length),
    Fault("duplicate events", ("near", "near"), ("near", "near"), scripts.duplicates),
    Fault("DNS gone", ("near", "near"), ("near", "near"), strike="forget_names"),
    Fault("TLS expired", ("far", "far"), (GONE, GONE), strike="expire"),
)


@pytest.fixture(scope="module")
def hops(tmp_path_factory):
    """Certificates of the regions, good and expired, and a context that trusts whoever signed them."""
    names = tuple(hop_name("region", name) for name in ("iad", "fra"))
    good = make_certificate(tmp_path_factory.mktemp("good"), names)
    expired = make_certificate(tmp_path_factory.mktemp("expired"), names, days=-0.01)
    trusts = client_context(good[2])
    trusts.load_verify_locations(str(expired[2]))
    return server_context(*good[:2]), server_context(*expired[:2]), trusts


@pytest.fixture
def names(monkeypatch):
    """A name server of our own: every name is this machine, until `names.clear()`."""
    known = ["127.0.0.1"]

    async def lookup(host, port):
        if not known:
            raise OSError("no name server answers")
        return list(known)

    monkeypatch.setattr(resolve, "lookup", lookup)
    monkeypatch.setattr(resolve, "FRESH_S", 0.0)
    return known


async def near_and_far(world, hops, patience=PATIENCE):
    edge = await world(
        patience=patience,
        hosts={name: f"{name}.region.test" for name in ("iad", "fra")},
        region_tls=hops[0],
        hop_tls=hops[2],
    )
    for region in edge.regions.values():
        region.script = scripts.well
    _, headers, _ = await edge.ask(body=question(stream=False))
    near = headers["x-nearfield-region"]
    far = next(name for name in edge.regions if name != near)
    for region in edge.regions.values():
        region.requests.clear()
    return edge, edge.regions[near], edge.regions[far]


async def strike(how, region, hops, names):
    if how == "kill":
        await region.kill()
    elif how == "forget_names":
        names.clear()
        await region.kill()  # every connection has to be made anew
        await region.start()
    elif how == "expire":
        await region.kill()
        region.tls = hops[1]
        await region.start()


def question(*, stream, **more):
    return json.dumps(QUESTION | {"stream": stream} | more).encode()


async def ask(edge, *, stream, at=""):
    """What came of one request, in words, and how long it took."""
    began = time.monotonic()
    status, headers, body = await edge.ask(body=question(stream=stream), at=at)
    return judged(status, headers, body), time.monotonic() - began


def judged(status, headers, body):
    """The region that answered rightly, or the one clear error; anything else is a failed assertion."""
    if status != 200:
        error = json.loads(body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]
        return f"{status} {error['code']}"
    if not headers["content-type"].startswith("text/event-stream"):
        answer = json.loads(body)
        assert answer["choices"][0]["message"]["content"] == scripts.text()
        return answer["by"]
    return judged_stream(body)


def judged_stream(body):
    events = [part for part in body.decode().split("\n\n") if part and not part.startswith(":")]
    data = [
        line.removeprefix("data: ") for part in events for line in part.split("\n") if line[:5] == "data:"
    ]
    ended = data.pop()
    chunks = [json.loads(each) for each in data]
    said = "".join(each["choices"][0]["delta"]["content"] for each in chunks)
    assert said == scripts.text(len(chunks))  # each token once, in order
    assert len({each["by"] for each in chunks}) <= 1  # of one region
    if ended == "[DONE]":
        assert len(chunks) == scripts.NUM_TOKENS
        return chunks[0]["by"]
    return f"{len(chunks)} tokens, then {json.loads(ended)['error']['code']}"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_each_fault_ends_in_a_right_answer_or_one_clear_error(world, hops, names, fault):
    edge, near, far = await near_and_far(world, hops, fault.patience)
    near.script = fault.script
    await strike(fault.strike, near, hops, names)
    asked = [ask(edge, stream=stream, at=at) for at in ("", near.name) for stream in (True, False)]
    found = await asyncio.gather(*asked)

    where = {near.name: "near", far.name: "far"}
    assert [where.get(said, said) for said, _ in found] == [*fault.main, *fault.alone]
    assert max(took_s for _, took_s in found) < PATIENCE.total_s
    assert all(dict(head.headers).get(ASK) for head, _ in far.requests)


async def test_the_table_has_every_fault_of_the_plan():
    assert len(FAULTS) + len(("flapping", "one bad of three")) >= 16


async def test_a_region_that_flaps_costs_no_answer(world, hops, names):
    edge, near, _ = await near_and_far(world, hops)
    near.script = scripts.flapping()
    found = [(await ask(edge, stream=n % 2 == 0))[0] for n in range(24)]

    assert set(found) <= set(edge.regions)
    assert len(found) == 24


@pytest.mark.parametrize("bad", [scripts.reset_before_head, scripts.truncated, scripts.refusing(500, "x")])
async def test_one_bad_of_three_is_left_alone_soon(world, bad):
    """Whole answers only: a stream that breaks midway is told so. Two failures, and nobody asks it any more."""
    edge = await world(names=("iad", "fra", "nrt"), patience=PATIENCE)
    for region in edge.regions.values():
        region.script = scripts.well
    _, headers, _ = await edge.ask(body=question(stream=False))
    near = edge.regions[headers["x-nearfield-region"]]
    near.script = bad
    near.requests.clear()
    found = [(await ask(edge, stream=False))[0] for _ in range(20)]

    assert set(found) <= set(edge.regions) - {near.name}
    assert len({head.get("x-request-id") for head, _ in near.requests}) <= 5  # two, and trials since


async def test_retry_after_is_kept_to_where_another_region_serves(world, hops, names):
    edge, near, far = await near_and_far(world, hops)
    near.script = scripts.refusing(429, "overloaded", ("retry-after", "30"))
    found = [(await ask(edge, stream=n % 2 == 0))[0] for n in range(6)]

    assert found == [far.name] * 6
    assert len(near.requests) == 1


async def test_who_asks_too_much_of_a_region_sends_no_other_tenant_away_from_it(world, hops, names):
    edge, near, far = await near_and_far(world, hops)
    home = edge.regions["iad"]
    home.keys = POLICY_KEYS | {sha256(b"nf-ada").hexdigest(): KeyGrant("ada", frozenset({"infer"}))}
    home.say_policy()
    while (await edge.get("/v1/models", key="nf-ada"))[0] != 200:  # noqa: ASYNC110 - no event tells it
        await asyncio.sleep(0.01)  # the key is on its way

    async def full_of_one(exchange, region):
        is_ada = exchange.head.get("x-nearfield-tenant") == "ada"
        script = scripts.well if is_ada else scripts.refusing(429, "overloaded", ("retry-after", "30"))
        await script(exchange, region)

    near.script = full_of_one
    near.requests.clear()
    for stream in (True, False) * 2:
        assert (await ask(edge, stream=stream))[0] == far.name
        _, headers, _ = await edge.ask(key="nf-ada", body=question(stream=stream))
        assert headers["x-nearfield-region"] == near.name

    assert len(near.requests) == 1 + 4, "the one is told once, and asks elsewhere until its time is up"


async def test_who_has_as_many_in_a_region_as_it_takes_sends_more_as_they_come_back(world, monkeypatch):
    monkeypatch.setattr(holdoff, "SHUT_S", holdoff.MAX_WAIT_S)  # however slow the machine is
    edge, inside = await world(names=("iad",)), []
    region = edge.regions["iad"]
    assert (await edge.ask(body=question(stream=False)))[0] == 200  # by then there is a short way

    async def full_of_two(exchange, region):
        if len(inside) == 2:
            return await scripts.refusing(429, "overloaded", ("retry-after", "60"))(exchange, region)
        inside.append(left := asyncio.Event())
        await left.wait()
        return await scripts.well(exchange, region)

    async def enter():
        asked, before = asyncio.create_task(edge.ask(body=question(stream=False))), len(inside)
        while len(inside) == before:  # noqa: ASYNC110 - no event tells it
            await asyncio.sleep(0.001)
        return asked

    async def num_asked(**more):
        before = len(region.requests)
        status, headers, body = await edge.ask(body=question(stream=False, **more))
        assert (status, json.loads(body)["error"]["code"]) == (429, "overloaded")
        assert 1 <= int(headers["retry-after"]) <= 60
        return len(region.requests) - before

    region.script = full_of_two
    tasks = [await enter(), await enter()]
    assert [await num_asked() for _ in range(3)] == [1, 0, 0], "told once, the edge says it itself"
    assert await num_asked(priority=-1) == 1, "the node may turn a less urgent one away for it"
    inside.pop().set()
    assert (await tasks.pop())[0] == 200
    tasks.append(await enter())
    assert await num_asked() == 0, "the place of the one that came back is taken"
    for left in inside:
        left.set()
    assert [(await each)[0] for each in tasks] == [200, 200]


async def test_if_all_refuse_the_client_hears_the_least_wait(world, hops, names):
    edge, near, far = await near_and_far(world, hops)
    near.script = scripts.refusing(429, "overloaded", ("retry-after", "30"))
    far.script = scripts.refusing(503, "model_not_ready", ("retry-after", "9"))
    status, headers, body = await edge.ask(body=question(stream=False))

    assert (status, json.loads(body)["error"]["code"], headers["retry-after"]) == (
        503,
        "model_not_ready",
        "9",
    )
