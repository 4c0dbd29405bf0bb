"""Rows of very many models: said in parts, then by what has changed; and what of that is refused."""

import json
import random
from dataclasses import replace

import pytest

from regions import row_codec
from regions.gateway.journal import Journal
from regions.map.region import MAX_PARTS, MAX_ROW_BYTES, LeftOutFile, Tier
from regions.rows import NEVER, RowRefused, Snapshot, canonical, encode, encode_change, encode_whole, fold
from tests.evidence import count
from tests.regions.made import KEYS, SIGNERS, model_row, region_row

KEY = KEYS["iad"]


def models(num, **changes):
    return {f"acme/m{n:05d}": model_row(bytes=n, **changes) for n in range(num)}


def folded(snapshot, lines, now=1.0, source="iad"):
    for line in lines:
        snapshot = fold(snapshot, line, SIGNERS, now=now, source=source)
    return snapshot


def refused(snapshot, line):
    with pytest.raises(RowRefused) as caught:
        fold(snapshot, line, SIGNERS, now=9.0, source="iad")
    return caught.value.code


def resigned(line, **changes):
    document = {**json.loads(line), **changes}
    document.pop("sig")
    return canonical({**document, "sig": KEY.sign(canonical(document)).hex()})


def body(line, **changes):
    return {**json.loads(line)["body"], **changes}


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(row_codec, "PART_BYTES", 1024)


def test_a_row_of_ten_thousand_models_is_said_in_parts_within_the_cap_and_comes_into_force_whole():
    row = region_row(models=models(count(1_000, 10_000)))
    lines = encode_whole(row, KEY)
    snapshot = folded(Snapshot(), lines[:-1])

    assert 1 < len(lines) < MAX_PARTS / 2
    assert max(map(len, lines)) < MAX_ROW_BYTES / 8
    assert not snapshot.regions  # half a row is nothing
    assert folded(snapshot, lines[-1:]).regions["iad"].row == row


def test_a_beat_says_nothing_of_models_that_are_as_they_were():
    beats = []
    for num in (2, 200):
        row, journal = region_row(models=models(num)), Journal(KEY)
        journal.say(row)
        heard = folded(Snapshot(), journal.after(0)).regions["iad"]
        journal.say(replace(row, seq=2))
        after = folded(Snapshot({"iad": heard}), journal.after(1), now=5.0).regions["iad"]
        assert (after.row.seq, after.at) == (2, 5.0)
        assert after.offers is heard.offers  # nothing is worked out again
        beats.append(len(journal.change))

    assert beats[0] == beats[1] < 512


def moved(rng, row):
    """A newer row: a few models more, fewer or otherwise."""
    now = dict(row.models)
    for _ in range(rng.randrange(3)):
        name = f"acme/m{rng.randrange(40):05d}"
        if rng.random() < 0.3:
            now.pop(name, None)
        else:
            now[name] = model_row(tier=rng.choice(list(Tier)), running=rng.randrange(3), residency=("eu",))
    share = rng.choice([1e9, 1e9, 2e9])
    return replace(row, seq=row.seq + 1, models=now, store_bytes_per_s=share, draining=rng.random() < 0.1)


@pytest.mark.parametrize("seed", range(count(5, 200)))
def test_whatever_lines_an_edge_misses_what_it_has_is_what_was_said(seed, small_parts):
    rng, journal, row = random.Random(seed), Journal(KEY), region_row(models=models(20))
    snapshot, seen, num_bytes, num_whole = Snapshot(), 0, 0, 0
    for _ in range(60):
        journal.say(row)
        if rng.random() < 0.7:  # else it is slow, and gets the next one
            lines = journal.after(seen)
            snapshot, seen = folded(snapshot, lines, now=float(row.seq)), row.seq
            num_bytes += sum(map(len, lines))
            num_whole += sum(map(len, encode_whole(row, KEY)))
            heard = snapshot.regions["iad"]
            again = folded(Snapshot(), encode_whole(row, KEY)).regions["iad"]
            assert (heard.row, heard.at) == (row, float(row.seq))
            assert (dict(heard.offers), dict(heard.kept)) == (dict(again.offers), dict(again.kept))
            kept = folded(Snapshot(), snapshot.lines(), now=NEVER, source=None)
            assert kept.regions["iad"].row == row
        row = moved(rng, row)

    assert num_bytes < num_whole


def test_a_change_is_for_the_whole_row_that_it_names_and_no_other(small_parts):
    row = region_row(models=models(20), seq=5)
    change = encode_change(replace(row, seq=6), row, set(), KEY)
    newer = encode_change(replace(row, seq=7, draining=True), row, set(), KEY)
    snapshot = folded(Snapshot(), encode_whole(row, KEY))

    assert refused(Snapshot(), change) == "gap"  # nothing is held
    assert refused(folded(Snapshot(), [encode(replace(row, seq=4), KEY)]), change) == "gap"
    assert refused(folded(Snapshot(), [encode(replace(row, epoch=2), KEY)]), change) == "gap"
    assert folded(snapshot, [change, newer]).regions["iad"].row.draining
    assert refused(folded(snapshot, [newer]), change) == "older"
    assert refused(folded(snapshot, [newer]), resigned(newer, body=body(newer, draining=False))) == "older"


def test_parts_come_in_order_and_of_one_row_or_none_is_taken(small_parts):
    row = region_row(models=models(20), seq=5)
    parts, other = (encode_whole(each, KEY) for each in (row, replace(row, seq=6)))
    first = folded(Snapshot(), parts[:1])

    assert refused(Snapshot(), parts[1]) == "gap"
    assert refused(first, parts[2]) == "gap"
    assert refused(first, other[1]) == "gap"
    assert refused(first, resigned(parts[1], body=body(parts[1], draining=True))) == "gap"
    assert refused(folded(Snapshot(), other), parts[0]) == "older"
    assert folded(first, other).regions["iad"].row.seq == 6  # a first part begins anew
    assert folded(first, other).gathered == {}


@pytest.mark.parametrize(
    "part", [[0, 1], [2, 2], [3, 2], [0, MAX_PARTS + 1], [0], [-1, 2], [0.0, 2], "0/2", None]
)
def test_a_part_is_one_of_a_few(part):
    line = encode(region_row(), KEY)

    assert refused(Snapshot(), resigned(line, body=body(line, part=part))) == "bad_value"


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("bad_value", {"gone": ["acme/m00001", "acme/none"]}),
        ("bad_value", {"gone": ["acme/m00000"]}),  # which it also tells of
        ("bad_value", {"gone": "acme/m00001"}),
        ("bad_value", {"gone": [1]}),
        ("bad_value", {"gone": ["no-slash"]}),
        ("bad_value", {"since": -1}),
        ("gap", {"since": 4}),
        ("unknown_field", {"part": [0, 2]}),
        ("missing_field", {"models": {"acme/m00000": {}}}),
    ],
)
def test_a_change_that_makes_no_sense_is_refused(code, changes):
    row = region_row(models=models(3))
    line = encode_change(replace(row, seq=2), row, {"acme/m00000"}, KEY)
    snapshot = folded(Snapshot(), [encode(row, KEY)])

    assert refused(snapshot, resigned(line, body=body(line, **changes))) == code


def test_a_model_in_two_parts_is_refused(small_parts):
    parts = encode_whole(region_row(models=models(6)), KEY)
    twice = resigned(parts[1], body=body(parts[0], part=[1, 2]))
    first = resigned(parts[0], body=body(parts[0], part=[0, 2]))

    assert refused(folded(Snapshot(), [first]), twice) == "bad_value"


def test_a_change_too_long_for_one_line_is_said_as_a_whole_row():
    lengthy = model_row(left_out=(LeftOutFile("p" * 1024, "r" * 1024),) * 32)
    row, journal = region_row(models=models(80)), Journal(KEY)
    journal.say(row)
    loud = replace(row, seq=2, models={**row.models, **dict.fromkeys(list(row.models)[:20], lengthy)})
    journal.say(loud)

    assert journal.change == b""
    assert folded(Snapshot(), journal.after(1)).regions["iad"].row == loud


def test_what_can_never_be_taken_is_not_said_and_the_last_row_stays(small_parts):
    row, journal = region_row(models=models(20)), Journal(KEY)
    journal.say(row)
    before = journal.after(0)
    with pytest.raises(RowRefused, match="oversized"):
        journal.say(region_row(models=models(MAX_PARTS * 8), seq=2))

    assert (journal.after(0), journal.row) == (before, row)
