"""The map that the edge routes by: last valid rows, kept through deaths on either side."""

import asyncio
import json
import time

import pytest

from edge.rows.feed import FILE, Feed, LineCut
from regions.map.policy import KeyGrant
from regions.map.region import MAX_ROW_BYTES
from regions.rows import NEVER, RowRefused, Signers, public_bytes
from tests.edge.world import BODY, MODEL, POLICY_KEYS, FakeRegion, code, free_port, served


@pytest.fixture
def regions():
    return {name: FakeRegion(name, home=name == "iad") for name in ("iad", "fra")}


@pytest.fixture
def feed(tmp_path, regions):
    return Feed(Signers.of({name: public_bytes(r.key) for name, r in regions.items()}, "iad"), tmp_path)


async def test_rows_are_kept_and_come_back(feed, regions, tmp_path):
    assert feed.take(regions["iad"].policy_line(), "iad", 1.0)
    assert feed.take(regions["iad"].line(), "iad", 1.0)
    assert feed.take(regions["fra"].line(), "fra", 1.0)
    await feed.save()
    again = Feed(feed._signers, tmp_path)
    again.load()

    assert set(again.snapshot.regions) == {"iad", "fra"}
    assert again.snapshot.regions["iad"].at == NEVER
    assert again.snapshot.policy == feed.snapshot.policy
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


async def test_a_damaged_file_costs_only_its_damaged_lines(feed, regions, tmp_path, caplog):
    good = regions["fra"].line()
    (tmp_path / FILE).write_bytes(
        b"\xff\x00garbage\n" + regions["iad"].line()[:-9] + b"\n" + good + b"\n" + good[:20]
    )
    feed.load()

    assert set(feed.snapshot.regions) == {"fra"}
    assert "refused" in caplog.text


async def test_no_file_is_no_rows(feed):
    feed.load()

    assert not feed.snapshot.regions


async def test_a_disk_that_refuses_is_said_and_not_fatal(feed, regions, tmp_path, caplog):
    feed._path = tmp_path / "missing" / FILE
    feed.take(regions["iad"].line(), "iad", 1.0)
    await feed.save()

    assert "cannot be kept" in caplog.text


def test_bad_rows_leave_the_last_good_one(feed, regions, caplog):
    iad, fra = regions["iad"], regions["fra"]
    first = iad.line()
    assert feed.take(first, "iad", 1.0)
    newer = iad.line()
    before = feed.snapshot
    bad = {
        "empty": b"",
        "truncated": newer[:-30],
        "bit flipped": newer.replace(b'"slots":4', b'"slots":5'),
        "oversized": newer + b" " * MAX_ROW_BYTES,
        "of another region": fra.line(),
        "not canonical": json.dumps(json.loads(newer)).encode(),
        "signed by another": fra.line().replace(b'"id":"fra"', b'"id":"iad"'),
        "policy of a region": fra.policy_line(),
    }
    for name, line in bad.items():
        assert not feed.take(line, "iad", 2.0), name
        assert feed.snapshot is before, name
    assert feed.take(newer, "iad", 2.0)
    assert not feed.take(first, "iad", 3.0)  # older
    assert feed.take(newer, "iad", 3.0)  # the same again: still alive
    assert feed.snapshot.regions["iad"].at == 3.0


def test_lines_are_cut_wherever_bytes_end():
    data = b"abc\n\nde\n"
    for cut in range(len(data)):
        lines = LineCut()
        assert lines.feed(data[:cut]) + lines.feed(data[cut:]) == [b"abc", b"", b"de"]
    with pytest.raises(RowRefused):
        LineCut().feed(b"x" * (MAX_ROW_BYTES + 1))


async def written(edge, holds):
    """Wait until the rows on disk are as `holds` says."""
    path = edge._state / FILE
    async with asyncio.timeout(60):
        while not (path.exists() and holds(path.read_bytes())):  # noqa: ASYNC110 - a file tells nobody
            await asyncio.sleep(0.02)


async def test_an_edge_boots_and_routes_with_every_control_plane_dead(world):
    edge = await world()
    await edge.ask()
    await written(edge, lambda rows: len(rows.splitlines()) == 1 + len(edge.regions))
    await edge.stop_edge()
    for region in edge.regions.values():
        serve = region._serve

        async def data_only(exchange, serve=serve):
            if exchange.head.path.startswith("/v1/"):
                await serve(exchange)
            else:
                await asyncio.sleep(100)

        region._serve = data_only
        await region.kill()
        await region.start()
    edge._wait = False
    began = time.perf_counter()
    await edge.start_edge()
    status, headers, _ = await edge.ask()

    assert status == 200
    assert "state=away" in headers["x-nearfield-route"]  # rows of before, and it says so
    assert time.perf_counter() - began < 30  # of the 100 s that they would keep it waiting


async def test_rows_survive_a_kill_of_the_edge_within_moments(world):
    edge = await world()
    edge.regions["iad"].say({MODEL: served(), "acme/new": served()})
    await edge.until(lambda s: "acme/new" in s["regions"]["iad"]["body"]["models"])
    await written(edge, lambda rows: b"acme/new" in rows)  # as a SIGKILL would leave it


async def test_a_key_that_is_taken_back_stops_working(world):
    edge = await world(names=("iad",))
    assert (await edge.ask())[0] == 200
    keys = {digest: grant for digest, grant in POLICY_KEYS.items() if grant.tenant != "acme"}
    region = edge.regions["iad"]
    region.policy_line = lambda: type(region).policy_line(region, seq=2, keys=keys)
    await region.kill()
    await region.start()
    for _ in range(1000):
        status, _, body = await edge.ask()
        if status == 401:
            break
        await asyncio.sleep(0.05)

    assert code(body) == "invalid_api_key"


async def test_a_region_cannot_grant_keys(world):
    edge = await world()
    fra = edge.regions["fra"]
    mine = {"f" * 64: KeyGrant("evil", frozenset({"admin"}))}
    fra.home = True
    fra.policy_line = lambda: type(fra).policy_line(fra, seq=9, keys=mine)
    await fra.kill()
    await fra.start()
    await edge.until(lambda s: (s["regions"]["fra"]["heard_s"] or 9) < 0.5)

    assert (await edge.ask())[0] == 200


async def test_a_silent_row_stream_is_asked_for_again(world, monkeypatch):
    monkeypatch.setattr("edge.rows.feed.SILENCE_S", 0.2)
    edge = await world(names=("iad",))
    region, streams, again = edge.regions["iad"], 0, asyncio.Event()
    rows = region._rows

    async def silent(exchange):
        nonlocal streams
        streams += 1
        if streams > 2:
            again.set()
            await rows(exchange)
        await exchange.start(200, ())
        await exchange.write(region.line() + b"\n")
        await asyncio.sleep(100)

    region._rows = silent
    await region.kill()
    await region.start()
    await asyncio.wait_for(again.wait(), 30)
    assert (await edge.ask())[0] == 200


async def test_without_any_row_the_edge_says_so(world):
    edge = await world(names=("iad",), wait=False, regions={"iad": f"127.0.0.1:{free_port()}"})
    status, headers, body = await edge.ask(body=BODY)

    assert (status, code(body), headers["retry-after"]) == (503, "region_unavailable", "1")
    assert (await edge.ask(key=None))[0] == 401
    assert (await edge.get("/healthz", key=None))[0] == 200
