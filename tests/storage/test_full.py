"""A full disk can be emptied: what only adds is refused before the last of it is gone, and deletes go on."""

import os

import pytest

from storage.disk.spare import FILES_LEAVE_BYTES, ROWS_LEAVE_BYTES
from tests.storage.stores import Raw, StoreThread

FULL = (507, "InsufficientStorage")
LARGE, SMALL = bytes(100_000), b"small enough for the index"


@pytest.fixture
def disk(monkeypatch):
    """How many bytes of every disk are free."""
    free = {"bytes": 1 << 40}
    real = os.statvfs

    def statvfs(where):
        found = real(where)
        return os.statvfs_result((*found[:4], free["bytes"] // found.f_frsize, *found[5:]))

    monkeypatch.setattr(os, "statvfs", statvfs)
    return free


@pytest.fixture
def raw(tmp_path):
    store = StoreThread(tmp_path / "store", min_part_bytes=1)
    with Raw(store.endpoint()) as raw:
        raw.send("PUT", "/models")
        yield raw
    store.stop()


def said(answer):
    return answer.status, answer.code


def test_the_last_of_a_disk_is_for_deletes(raw, disk):
    raw.put("models", "large", LARGE)
    upload = raw.create_upload("models", "parts")
    disk["bytes"] = FILES_LEAVE_BYTES + len(LARGE) - 1
    refused = raw.put("models", "more", LARGE), raw.put_part("models", "parts", upload, 1, LARGE)
    small = raw.put("models", "small", SMALL)
    disk["bytes"] = ROWS_LEAVE_BYTES
    last = raw.put("models", "another", SMALL)
    kept = raw.get("models", "large").body
    gone = raw.send("DELETE", "/models/large")
    disk["bytes"] = FILES_LEAVE_BYTES + 2 * len(LARGE)
    after = raw.put("models", "more", LARGE)

    assert [said(each) for each in refused] == [FULL] * 2
    assert (small.status, said(last)) == (200, FULL)
    assert kept == LARGE
    assert (gone.status, after.status) == (204, 200)
