"""A line that is cut for a minute while the home goes on: afterwards both sides are equal again, soon."""

import json
import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.evidence import IS_WHOLE, count
from tests.storage.far import pair
from tests.storage.stores import Raw

NUM_OBJECTS = count(60, 1000)
CUT_S = count(1, 60)
HEALED_S = 30.0  # the goal, which the whole evidence asserts


def listed(raw):
    """Key -> etag of every object."""
    found, after = {}, ""
    while True:
        body = raw.send("GET", "/models", f"list-type=2&start-after={after}").body.decode()
        rows = [row.partition("</Contents>")[0] for row in body.split("<Contents>")[1:]]
        for row in rows:
            after = row.partition("<Key>")[2].partition("</Key>")[0]
            found[after] = row.partition("<ETag>")[2].partition("</ETag>")[0].strip('"').replace("&quot;", "")
        if "<IsTruncated>true" not in body:
            return found


def kept(both):
    """(key, etag) of each copy that the far store has."""
    facts = [json.loads(text) for path in both.copies.glob("*.json") if (text := text_of(path))]
    return {(each["key"], each["etag"]) for each in facts}


def text_of(path):
    """What a file says; nothing of one that the store, at work meanwhile, has dropped since it was listed."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def read_all(endpoint, names):
    """What each key is answered with."""

    def some(part):
        with Raw(endpoint) as raw:
            answers = {key: raw.get("models", key) for key in part}
        return {
            key: (got.status, got.body if got.status == 200 else got.code) for key, got in answers.items()
        }

    with ThreadPoolExecutor(4) as threads:
        return {
            key: got
            for part in threads.map(some, (names[n::4] for n in range(4)))
            for key, got in part.items()
        }


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_minutes_cut_heals_to_equality():
    draw = random.Random(11)
    names = [f"m/{number:04d}" for number in range(NUM_OBJECTS)]
    with pair() as both:
        for name in names:
            assert both.home.put("models", name, draw.randbytes(draw.randrange(1, 20_000))).status == 200
        far = both.far_store.endpoint()
        assert read_all(far, names) == read_all(both.home_store.endpoint(), names)
        assert len(kept(both)) == NUM_OBJECTS

        both.link.cut()
        until_s = time.monotonic() + CUT_S
        changed = 0
        while time.monotonic() < until_s or changed < NUM_OBJECTS:
            name = draw.choice(names)
            if draw.random() < 0.4:
                assert both.home.delete("models", name).status == 204
            else:
                assert both.home.put("models", name, draw.randbytes(draw.randrange(1, 20_000))).status == 200
            changed += 1
        assert both.far.put("models", names[0], b"lost?").status == 503, "not taken, so not lost"
        now = listed(both.home)

        both.link.mend()
        began = time.monotonic()
        there = read_all(far, names)
        while not kept(both) <= set(now.items()):
            assert time.monotonic() - began < 60, "old versions are still kept"
            time.sleep(0.05)
        healed_s = time.monotonic() - began
        assert there == read_all(both.home_store.endpoint(), names)
        assert {name for name, (status, _) in there.items() if status == 200} == set(now)
        assert listed(both.far) == now

        both.link.cut()
        for name, answer in read_all(far, names).items():
            assert answer in (there[name], (503, "ServiceUnavailable")), "no older version comes back"
        print(f"{NUM_OBJECTS} objects, {changed} changes in {CUT_S} s: healed in {healed_s:.1f} s")
        if IS_WHOLE:
            assert healed_s < HEALED_S
