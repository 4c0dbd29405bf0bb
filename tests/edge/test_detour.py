"""A region out of this edge's reach is asked by another region's gateway, when nobody else has the model."""

import json
from types import SimpleNamespace

import pytest

from edge.reach.detour import BLIND_S, HERE_MS, YOUNG_S, Detours, is_unreached, passed_on
from edge.relay.setback import Setback
from regions.map.headers import FOR
from tests.edge.world import BODY, STREAM_BODY, answers, refuses, served, streams

FAR = "acme/far"
ASK = json.dumps({"model": FAR, "messages": [{"role": "user", "content": "Hi"}]}).encode()
STREAM = json.dumps({"model": FAR, "prompt": "Hi", "stream": True}).encode()


def reach(name, rtt_ms, *, down=False, since=None):
    return SimpleNamespace(name=name, rtt_ms=rtt_ms, down=down, down_since=since)


@pytest.mark.parametrize(
    ("others", "chosen"),
    [
        ((reach("us", 80.0), reach("eu", 10.0)), "eu"),
        ((reach("us", 80.0), reach("eu", 10.0, down=True)), "us"),
        ((reach("us", None), reach("eu", 200.0)), "eu"),
        ((reach("us", None),), None),
        ((reach("us", 80.0, down=True),), None),
        ((), None),
    ],
)
def test_the_nearest_region_that_answers_is_asked_to_pass_on(others, chosen):
    detours = Detours({each.name: each for each in (reach("ap", 1.0), *others)})

    assert (detours.of("ap", 0.0) and detours.of("ap", 0.0).name) == chosen


@pytest.mark.parametrize(
    ("since", "now", "chosen"),
    [(None, 100.0, "us"), (100.0, 100.0, "us"), (100.0, 100.0 + YOUNG_S, "eu")],
    ids=["it was not known to be down", "just now", "its gateway would know it"],
)
def test_a_region_of_the_edges_own_place_comes_last_while_a_cut_is_young(since, now, chosen):
    """It is most likely behind the same cut."""
    everyone = reach("ap", 160.0, since=since), reach("us", 80.0), reach("eu", HERE_MS / 2)
    detours = Detours({each.name: each for each in everyone})

    assert detours.of("ap", now).name == chosen
    assert detours.of("ap", now, frozenset({"ap", "eu"})).name == "eu"


def vain(cause="region_unavailable", *, answered=True, via="eu", status=503):
    return Setback("ap", cause, True, status, (), b"", answered=answered, via=via)


def test_who_cannot_reach_it_either_is_not_asked_again_for_a_while():
    detours = Detours({each.name: each for each in (reach("ap", 5.0), reach("eu", 10.0), reach("us", 80.0))})
    detours.note(passed_on(vain(), "eu"), 100.0)

    assert detours.of("ap", 100.0 + BLIND_S - 0.1).name == "us"
    assert detours.of("ap", 100.0 + BLIND_S).name == "eu"
    assert detours.of("us", 100.0).name == "ap"


def test_what_must_stay_in_some_regions_is_passed_on_by_one_of_them_or_nobody():
    detours = Detours({each.name: each for each in (reach("ap", 1.0), reach("eu", 10.0), reach("us", 80.0))})

    assert detours.of("ap", 0.0, frozenset({"ap", "us"})).name == "us"
    assert detours.of("ap", 0.0, frozenset({"ap"})) is None


@pytest.mark.parametrize(
    ("back", "unreached"),
    [
        (vain("connect", answered=False, via=None), True),
        (vain("head", answered=False, via=None), True),
        (vain("body", answered=False, via=None), False),
        (vain("head", answered=False, via=None, status=504), False),
        (vain("region_unavailable", via=None), False),
        (passed_on(vain(), "eu"), True),
        (passed_on(vain("model_not_ready"), "eu"), False),
        (vain("connect", answered=False), True),
    ],
    ids=str,
)
def test_only_a_way_that_failed_is_gone_round(back, unreached):
    assert is_unreached(back) is unreached


@pytest.fixture
async def cut(world):
    """fra alone has the model, and this edge cannot reach fra; iad can, and passes on."""

    async def start(script=answers):
        made = await world()
        made.regions["fra"].say({**made.regions["fra"].models, FAR: served()})
        await made.until(lambda status: FAR in status["regions"]["fra"]["body"]["models"])
        await made.regions["fra"].kill()
        made.regions["iad"].script, made.regions["iad"].passes_on = script, True
        return made

    return start


async def test_a_request_goes_round_a_cut_link_at_once_and_says_so(cut):
    edge = await cut()
    status, headers, _ = await edge.ask(body=ASK)
    head, sent = edge.regions["iad"].requests[-1]

    assert status == 200
    assert head.get(FOR) == "fra"
    assert sent == ASK
    assert headers["x-nearfield-region"] == "fra"
    assert headers["x-nearfield-route"].endswith("; replayed=fra(connect); via=iad")


async def test_once_the_probe_knows_it_nobody_knocks_in_vain(cut):
    edge = await cut()
    await edge.until(lambda status: status["regions"]["fra"]["breaker"] == "open")
    status, headers, _ = await edge.ask(body=ASK)

    assert status == 200
    assert "replayed" not in headers["x-nearfield-route"]
    assert headers["x-nearfield-route"].endswith("; via=iad")


async def test_a_stream_goes_round_too(cut):
    edge = await cut(streams(b'data: {"n":1}\n\n', b"data: [DONE]\n\n"))
    status, headers, body = await edge.ask("/v1/completions", STREAM)

    assert (status, headers["x-nearfield-region"]) == (200, "fra")
    assert body.startswith(b'data: {"n":1}\n\ndata: [DONE]\n\n')


async def test_another_way_round_is_tried_where_the_nearest_fails(world):
    """The region in the same place as the edge is behind the same cut."""
    edge = await world(names=("iad", "fra", "nrt"))
    edge.regions["fra"].say({**edge.regions["fra"].models, FAR: served()})
    await edge.until(lambda status: FAR in status["regions"]["fra"]["body"]["models"])
    await edge.regions["fra"].kill()
    for name in ("iad", "nrt"):
        edge.regions[name].script, edge.regions[name].passes_on = refuses(503, "region_unavailable"), True
    tried = await edge.ask(body=ASK)
    edge.regions["iad"].script = edge.regions["nrt"].script = answers
    blind = await edge.ask(body=ASK)

    assert (tried[0], blind[0]) == (503, 503)  # both are known not to reach it, for a while
    assert len(edge.regions["iad"].requests) == len(edge.regions["nrt"].requests) == 1


async def test_what_the_other_region_cannot_reach_either_is_one_clear_error(cut):
    """And it is no mark against the one that tried."""
    edge = await cut(refuses(503, "region_unavailable"))
    for _ in range(5):
        status, _, body = await edge.ask(body=ASK)
        assert (status, json.loads(body)["error"]["code"]) == (503, "region_unavailable")

    assert (await edge.status())["regions"]["iad"]["breaker"] == "closed"


async def test_a_model_that_others_have_is_asked_there_and_nobody_passes_on(cut):
    edge = await cut()
    for body, path in ((BODY, "/v1/chat/completions"), (STREAM_BODY, "/v1/completions")):
        assert (await edge.ask(path, body))[0] == 200

    assert {head.get(FOR) for head, _ in edge.regions["iad"].requests} == {None}
