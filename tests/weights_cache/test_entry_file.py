"""What an entry's description says is read back, and nothing else is read as one."""

import json

import pytest

from weights_cache.kept.entry_file import BadEntryError, described, parsed

from .kept import PLACES, REVISIONS

FILE = described(REVISIONS[0], PLACES[0])
VALUE = json.loads(FILE.to_bytes())
EXTENT = VALUE["extents"][0]


def test_it_is_read_back():
    assert parsed(FILE.to_bytes()) == FILE
    place, length, digest = FILE.extents[0]
    assert FILE.place_of(digest, length) == place
    assert FILE.place_of(digest, length - 1) is None
    assert FILE.place_of("0" * 64, length) is None


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "nearfield.entry/1"},
        {"bytes": -1},
        {"small": None},
        {"model": "../x"},
        {"more": 1},
        {"extents": 5},
        {"extents": {}},
        {"extents": [5]},
        {"extents": [EXTENT[:2]]},
        {"extents": [[*EXTENT, 1]]},
        {"extents": [[-1, *EXTENT[1:]]]},
        {"extents": [[EXTENT[0], 0, EXTENT[2]]]},
        {"extents": [[*EXTENT[:2], "x" * 64]]},
    ],
)
def test_one_thing_out_of_place_and_it_is_none(change):
    with pytest.raises(BadEntryError):
        parsed(json.dumps(VALUE | change).encode())


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_bytes_that_are_no_description(data):
    with pytest.raises(BadEntryError):
        parsed(data)
