"""What edges say of themselves to each other: read back as it was said, bounded, and forgotten after an hour."""

import json
from dataclasses import replace

import pytest

from regions.gateway.pops import Pops
from regions.pops import (
    KEPT_S,
    MAX_EDGES,
    MAX_REGIONS,
    MAX_WORD_BYTES,
    BadWordError,
    Passage,
    Word,
    encode,
    encode_words,
    read_word,
    read_words,
)
from tests.regions.fake_node import region
from wire.refused.refusal import Refusal

WORD = Word(
    "pop1", 2, 3, {"iad": Passage(40, 2, 1.25, down=False), "fra": Passage(0, 0, None, down=True)}, 61.5
)


def changed(path, value):
    """The word's JSON with another value at `path`."""
    body = json.loads(encode(WORD))
    at = body
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return json.dumps(body).encode()


def test_a_word_is_read_as_it_was_said():
    assert read_word(encode(WORD)) == WORD
    assert read_words(encode_words({"pop1": (WORD, 10.0)}, 12.5)) == [(WORD, 2.5)]


def test_a_field_of_tomorrow_is_passed_over():
    assert read_word(changed(["colour"], "red")) == WORD
    assert read_word(changed(["regions", "iad", "colour"], "red")) == WORD


def test_an_edge_of_before_says_not_since_when_it_is_up():
    said = json.loads(encode(WORD))
    del said["up_s"]

    assert read_word(json.dumps(said).encode()) == replace(WORD, up_s=None)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["up_s"], -1),
        (["up_s"], "long"),
        (["edge"], ""),
        (["edge"], "a" * 65),
        (["edge"], "a\nb"),
        (["edge"], 7),
        (["processes"], True),
        (["failed"], -1),
        (["failed"], 1.5),
        (["failed"], 2**53 + 1),
        (["regions"], []),
        (["regions"], {str(num): {} for num in range(MAX_REGIONS + 1)}),
        (["regions", "iad"], None),
        (["regions", "iad", "answered"], "40"),
        (["regions", "iad", "rtt_ms"], float("nan")),
        (["regions", "iad", "rtt_ms"], -1.0),
    ],
)
def test_what_is_no_word_is_refused(path, value):
    with pytest.raises(BadWordError):
        read_word(changed(path, value))


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"[" * 100_000, b"\xff", b" " * (MAX_WORD_BYTES + 1)])
def test_bytes_that_are_no_word_are_refused(data):
    with pytest.raises(BadWordError):
        read_word(data)
    with pytest.raises(BadWordError):
        read_words(data)


class Order:
    """An exchange with a body; `said` is the answer."""

    def __init__(self, body):
        self.body = body

    async def read_body(self, max_bytes):
        assert len(self.body) <= max_bytes
        return self.body

    async def respond(self, status, headers, body):
        self.said = status, body


async def tell(pops, word):
    order = Order(encode(word))
    await pops.serve(order)
    status, body = order.said
    assert status == 200
    return {each.edge: age_s for each, age_s in read_words(body)}


async def test_each_edge_is_told_what_the_others_said_last():
    pops = Pops()
    assert set(await tell(pops, WORD)) == {"pop1"}
    heard = await tell(pops, replace(WORD, edge="pop2"))
    assert set(heard) == {"pop1", "pop2"}
    assert 0 <= heard["pop1"] < 5


async def test_a_gateway_takes_words_of_holders_of_the_hop_token_alone():
    async with region() as r:
        answer = await r.ask("/pops", body=encode(WORD))
        assert [word for word, _ in read_words(await answer.read())] == [WORD]
        refused = await r.pool.request("POST", "/pops", (), encode(WORD))
        await refused.read()
        assert refused.head.status == 401


async def test_one_that_is_silent_for_an_hour_is_forgotten(monkeypatch):
    pops = Pops()
    await tell(pops, WORD)
    later = {name: (word, at - KEPT_S - 1) for name, (word, at) in pops._heard.items()}
    monkeypatch.setattr(pops, "_heard", later)

    assert set(await tell(pops, replace(WORD, edge="pop2"))) == {"pop2"}


async def test_there_are_so_many_edges_and_no_more():
    pops = Pops()
    for num in range(MAX_EDGES):
        await tell(pops, replace(WORD, edge=f"pop{num}"))
    with pytest.raises(Refusal) as refused:
        await tell(pops, replace(WORD, edge="one-more"))
    assert refused.value.status == 503
    assert len(await tell(pops, replace(WORD, edge="pop7"))) == MAX_EDGES, "who is known is heard still"


async def test_a_bad_word_changes_nothing():
    pops = Pops()
    await tell(pops, WORD)
    with pytest.raises(Refusal) as refused:
        await pops.serve(Order(b"{}"))
    assert refused.value.status == 400
    assert set(await tell(pops, WORD)) == {"pop1"}
