"""Edges hear of each other by way of the regions, and of nobody's requests."""

import asyncio
import json

from deploy.schemas.outputs import OUTPUTS
from edge.pops.pace import WINDOW_S, Paces
from edge.pops.told import nearest
from regions.pops import Passage, Word
from tests.deploy.conforms import breaches
from tests.edge.console.client import Visitor
from tests.edge.world import ADMIN, BODY, MODEL, USER


async def seen(visitor, fact):
    """The `edges` of the page's state, once they are so."""
    async with asyncio.timeout(60):
        while True:
            edges = dict(await visitor.events(1))["state"]["edges"]
            if fact(edges):
                return edges


async def test_two_edges_see_each_others_requests_and_one_that_is_gone(world, another):
    first = await world(others=frozenset({"two", "three"}))
    second = await another(first, "two")
    visitor = Visitor(first)
    await visitor.log_in()
    edges = await seen(visitor, lambda edges: edges["two"]["heard_s"] is not None)
    assert set(edges) == {"two", "three"}
    assert edges["three"] == {"heard_s": None, "processes": 0, "failed_per_s": 0.0, "regions": {}}
    assert set(edges["two"]["regions"]) == {"iad", "fra"}

    for _ in range(4):
        assert (await second.ask(body=BODY))[0] == 200
    counted = lambda edges: sum(each["answers_per_s"] for each in edges["two"]["regions"].values())  # noqa: E731
    edges = await seen(visitor, lambda edges: counted(edges) > 0)
    assert edges["two"]["heard_s"] < 10
    assert all(each["rtt_ms"] is not None and not each["down"] for each in edges["two"]["regions"].values())

    await second.stop_edge()
    assert (await seen(visitor, lambda edges: edges["two"]["heard_s"] > 4))["two"]["heard_s"] > 4


async def test_status_tells_of_every_edge(world, another):
    first = await world(others=frozenset({"two", "three"}))
    second = await another(first, "two")
    for _ in range(4):
        assert (await second.ask(body=BODY))[0] == 200
    heard = lambda status: (status["edges"]["two"]["answers_per_s"] or 0) > 0  # noqa: E731
    told = await first.until(heard)
    own, two, three = (told["edges"][name] for name in ("test", "two", "three"))

    assert breaches(told, OUTPUTS["status"]) == []
    assert list(told["edges"]) == ["test", "three", "two"]
    assert (own["self"], own["heard_s"], two["self"]) == (True, 0.0, False)
    assert sum(each["answered"] for each in two["regions"].values()) == 4
    assert two["nearest"] in {"iad", "fra"}
    assert two["up_s"] >= 0
    assert three == {
        "self": False,
        "heard_s": None,
        "up_s": None,
        "processes": 0,
        "nearest": None,
        "answers_per_s": None,
        "failed_per_s": None,
        "regions": {},
    }


async def test_an_edge_alone_tells_of_itself(world):
    edge = await world()
    assert (await edge.ask(body=BODY))[0] == 200
    told = await edge.until(lambda status: status["edges"]["test"]["answers_per_s"] is not None)

    assert list(told["edges"]) == ["test"]
    assert told["edges"]["test"]["processes"] == 1


def said(answered, failed=0, edge="two"):
    return Word(edge, 1, failed, {"iad": Passage(answered, 0, 1.0, down=False)})


def test_a_pace_is_what_grew_in_the_window():
    paces = Paces()
    paces.note(said(100), 0.0)
    assert paces.per_s("two", 0.0) is None, "one word tells no pace"
    for at in range(2, 22, 2):
        paces.note(said(100 + 3 * at, at), float(at))
    assert paces.per_s("two", 20.0) == (3.0, 1.0)
    assert paces.per_s("two", 20.0 + WINDOW_S) is None, "of a silent edge nobody knows it"
    assert paces.per_s("three", 20.0) is None


def test_an_edge_that_began_anew_has_no_negative_pace():
    paces = Paces()
    for at, answered in ((0.0, 500), (2.0, 520), (4.0, 1), (6.0, 5)):
        paces.note(said(answered), at)
        assert (paces.per_s("two", at) or (0.0, 0.0))[0] >= 0
    assert paces.per_s("two", 6.0) == (2.0, 0.0)


def test_the_nearest_region_is_one_that_can_be_reached():
    ways = {
        "iad": Passage(0, 0, 0.5, down=True),
        "fra": Passage(0, 0, 9.0, down=False),
        "nrt": Passage(0, 0, None, down=False),
    }
    assert nearest(Word("two", 1, 0, ways)) == "fra"
    assert nearest(Word("two", 1, 0, {"nrt": ways["nrt"]})) is None


async def test_nothing_of_a_request_is_in_an_edges_word(world, another):
    first = await world(others=frozenset({"two"}))
    second = await another(first, "two")
    assert (await second.ask(body=BODY))[0] == 200
    region = first.regions["iad"]
    await first.until(lambda _status: sum(way.answered for way in _word(region, "two").values()) > 0)
    kept = json.dumps([repr(each) for each in region.pops._heard.values()])
    for secret in (MODEL, "acme", USER, ADMIN, "Hi"):
        assert secret not in kept


async def test_an_edge_without_others_says_nothing(world):
    edge = await world()
    assert (await edge.ask(body=BODY))[0] == 200
    await asyncio.sleep(0.3)
    assert edge.regions["iad"].pops._heard == {}


async def test_a_region_that_answers_nonsense_changes_nothing(world, another, monkeypatch):
    first = await world(names=("iad",), others=frozenset({"two"}))
    region = first.regions["iad"]
    asked = asyncio.Event()

    async def nonsense(exchange):
        await exchange.read_body(1 << 20)
        asked.set()
        await exchange.respond(200, (), b'{"edges": [7]}')

    monkeypatch.setattr(region.pops, "serve", nonsense)
    await asyncio.wait_for(asked.wait(), 60)
    visitor = Visitor(first)
    await visitor.log_in()
    assert (await seen(visitor, bool))["two"]["heard_s"] is None
    assert (await first.ask(body=BODY))[0] == 200


def _word(region, edge):
    heard = region.pops._heard.get(edge)
    return heard[0].regions if heard else {}
