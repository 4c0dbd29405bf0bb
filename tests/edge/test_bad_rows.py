"""Rows that must not be taken, one by one through the stream of a running edge: counted by kind, and all goes on."""

import asyncio
import json
import time
from dataclasses import replace

import pytest

from regions import row_codec
from regions.map.policy import PolicyRow
from regions.map.region import MAX_MODELS, MAX_ROW_BYTES, RegionRow
from regions.rows import canonical, encode, encode_change, encode_whole
from tests.edge.world import MODEL, POLICY_KEYS, served

SOON_MS = 3_600_000  # an hour ahead


def signed(region, row=None, *, by=None, **changes):
    """A row with fields of its envelope changed, signed well: only the change is at fault."""
    row = row or RegionRow(region.name, epoch=1, seq=900_000, models={MODEL: served()})
    document = {**json.loads(encode(row, region.key)), **changes}
    document.pop("sig")
    return canonical({**document, "sig": (by or region).key.sign(canonical(document)).hex()})


def body(line, **changes):
    return {**json.loads(line)["body"], **changes}


def kinds(fra, iad):
    """(what, code, line) on the stream of `fra`, whose home is `iad`."""
    good = signed(fra)
    first = encode(RegionRow("fra", epoch=1, seq=1, models={MODEL: served()}), fra.key)
    policy = PolicyRow(epoch=1, seq=900_000, keys=POLICY_KEYS)
    ahead = int(time.time() * 1000) + SOON_MS
    changed = body(good, since=1, gone=[])
    return [
        ("an empty line", "empty", b""),
        ("no model any more", "empty", signed(fra, epoch=2, body=body(good, models={}))),
        ("a policy without keys", "empty", signed(iad, policy, body={"keys": {}})),
        ("a line without end", "oversized", b"x" * (MAX_ROW_BYTES + 1)),
        (
            "twice the models",
            "bad_value",
            signed(fra, body=body(good, models={name: {} for name in names()})),
        ),
        ("half a row", "not_json", good[: len(good) // 2]),
        ("two rows in one", "not_json", good + good),
        ("a field twice", "not_canonical", good.replace(b'"seq":900000', b'"seq":1,"seq":900000')),
        ("unsigned", "unsigned", canonical({k: v for k, v in json.loads(good).items() if k != "sig"})),
        ("signed by another", "bad_signature", signed(fra, by=iad)),
        ("a changed byte", "bad_signature", good.replace(b'"slots":4', b'"slots":5')),
        ("a policy of a region", "bad_signature", signed(fra, policy)),
        ("a field too many", "unknown_field", signed(fra, body=body(good, extra=1))),
        ("a field too few", "missing_field", signed(fra, body={})),
        ("a wrong value", "bad_value", signed(fra, body=body(good, draining=1))),
        ("an unknown region", "unknown_region", signed(fra, id="mars")),
        ("another region's row", "wrong_region", signed(iad)),
        ("an old row", "older", first),
        ("an old row with other words", "older", signed(fra, seq=1)),
        ("of an epoch before", "older", signed(fra, epoch=0)),
        ("from the future", "future", signed(fra, epoch=ahead)),
        ("a policy from the future", "future", signed(iad, policy, epoch=ahead)),
        ("a change signed by another", "bad_signature", signed(fra, by=iad, kind="change", body=changed)),
        ("a change with a field too few", "missing_field", signed(fra, kind="change", body=body(good))),
        ("a part of more than there may be", "bad_value", signed(fra, body=body(good, part=[0, 1000]))),
    ]


def names():
    return [f"a/m{n}" for n in range(MAX_MODELS + 1)]


def test_there_are_more_than_the_twelve_kinds_that_were_asked_for():
    assert len({code for _, code, _ in kinds(*made())}) > 12


def made():
    from tests.edge.world import FakeRegion

    return FakeRegion("fra"), FakeRegion("iad", home=True)


async def test_every_bad_row_is_refused_by_kind_while_serving_goes_on(world):
    edge = await world()
    fra, iad = edge.regions["fra"], edge.regions["iad"]
    before = await edge.status()
    for what, code, line in kinds(fra, iad):
        count = (await edge.status())["rows"]["refused"].get(code, 0)
        fra.strange.append(line)
        fra.say()

        def refused(status, code=code, count=count):
            return status["rows"]["refused"].get(code, 0) == count + 1

        status = await edge.until(refused)
        assert status["rows"]["policy"] == before["rows"]["policy"], what
        assert status["regions"]["fra"]["body"]["models"].keys() == {MODEL}, what
        assert (await edge.ask())[0] == 200, what
        asked = (await edge.ask(headers=(("x-nearfield-region", "fra"),)))[0]
        assert asked == 200, what
    fra.say({MODEL: served(), "acme/new": served()})
    await edge.until(lambda status: "acme/new" in status["regions"]["fra"]["body"]["models"])


async def test_a_change_to_a_row_that_is_not_held_has_the_edge_ask_for_the_rows_again(world):
    edge = await world()
    fra = edge.regions["fra"]
    rows, again = fra._rows, asyncio.Event()
    base = RegionRow("fra", epoch=1, seq=800_000, models={MODEL: served()})
    change = encode_change(replace(base, seq=900_000, draining=True), base, set(), fra.key)

    async def told_anew(exchange):
        again.set()
        await rows(exchange)

    fra._rows = told_anew
    fra.strange.append(change)
    fra.say()
    await asyncio.wait_for(again.wait(), 60)
    fra.say({MODEL: served(), "acme/new": served()})
    status = await edge.until(lambda s: "acme/new" in s["regions"]["fra"]["body"]["models"])

    assert status["rows"]["refused"] == {"gap": 1}
    assert not status["regions"]["fra"]["body"]["draining"]
    assert (await edge.ask(headers=(("x-nearfield-region", "fra"),)))[0] == 200


async def test_rows_said_in_parts_and_changes_are_followed_by_a_running_edge(world, monkeypatch):
    monkeypatch.setattr(row_codec, "PART_BYTES", 1024)
    edge = await world(names=("iad",))
    region, many = edge.regions["iad"], {f"acme/m{n}": served() for n in range(40)}
    row = RegionRow("iad", epoch=1, seq=900_000, models={MODEL: served(), **many})
    after = replace(row, seq=900_001, models={**row.models, "acme/new": served()})
    lines = (*encode_whole(row, region.key), encode_change(after, row, {"acme/new"}, region.key))
    assert len(lines) > 4
    region.strange.extend(lines)
    region.say()
    status = await edge.until(lambda s: "acme/new" in s["regions"]["iad"]["body"]["models"])

    assert status["regions"]["iad"]["body"]["models"].keys() == after.models.keys()
    body = json.dumps({"model": "acme/new", "messages": [{"role": "user", "content": "hi"}]}).encode()
    assert (await edge.ask(body=body))[0] == 200


async def test_a_stream_that_ends_inside_a_row_costs_nothing(world):
    edge = await world(names=("iad",))
    region, rows, ended = edge.regions["iad"], edge.regions["iad"]._rows, asyncio.Event()

    async def half(exchange):
        await exchange.start(200, ())
        if not ended.is_set():
            ended.set()
            await exchange.write(signed(region)[:200])
            return exchange.abort()
        region._rows = rows
        return await rows(exchange)

    region._rows = half
    await region.kill()
    await region.start()
    await asyncio.wait_for(ended.wait(), 60)
    region.say({MODEL: served(), "acme/new": served()})
    status = await edge.until(lambda s: "acme/new" in s["regions"]["iad"]["body"]["models"])
    assert status["rows"]["refused"] == {}


@pytest.mark.parametrize("epoch_ms", [0, 200_000])
async def test_a_clock_that_is_a_little_ahead_is_believed(world, epoch_ms):
    edge = await world(names=("iad",))
    region = edge.regions["iad"]
    row = RegionRow("iad", int(time.time() * 1000) + epoch_ms, 1, {MODEL: served(), "acme/new": served()})
    region.strange.append(encode(row, region.key))
    region.say()
    await edge.until(lambda status: "acme/new" in status["regions"]["iad"]["body"]["models"])
