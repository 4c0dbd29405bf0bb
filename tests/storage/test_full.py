"""A full disk can be emptied: what only adds is refused before the last of it is gone, and deletes go on."""

import os
import re

import pytest

from storage.disk.spare import ADDING, FILES_LEAVE_BYTES, ROWS_LEAVE_BYTES
from storage.s3 import HANDLERS
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


TAGS = b"<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>"
PART = b"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>%s</ETag></Part></CompleteMultipartUpload>"


def test_what_only_writes_rows_leaves_the_last_of_a_disk_too(raw, disk):
    """Each takes little; in a loop they took what deletes need."""
    raw.put("models", "small", SMALL)
    upload = raw.create_upload("models", "parts")
    part = raw.put_part("models", "parts", upload, 1, LARGE)
    ending = PART % part.headers["etag"].encode()
    disk["bytes"] = ROWS_LEAVE_BYTES - 1
    refused = [
        raw.send("POST", "/models/more", "uploads"),
        raw.send("POST", "/models/parts", f"uploadId={upload}", body=ending),
        raw.send("PUT", "/models/small", "tagging", body=TAGS),
        raw.send("PUT", "/models/twin", headers={"x-amz-copy-source": "/models/small"}),
        raw.send("PUT", "/another"),
    ]
    read = raw.get("models", "small"), raw.send("GET", "/models", "uploads")
    freed = raw.send("DELETE", "/models/parts", f"uploadId={upload}"), raw.send("DELETE", "/models/small")

    assert [said(each) for each in refused] == [FULL] * len(refused)
    assert [each.status for each in read] == [200, 200]
    assert [each.status for each in freed] == [204, 204]


def test_every_operation_either_adds_or_may_be_done_on_a_full_disk():
    """Those that are named otherwise add nothing that a client can do in a loop."""
    others = {name for name in HANDLERS if not name.startswith(ADDING)}
    assert {re.match("[A-Z][a-z]+", name)[0] for name in others} == {
        "Abort",
        "Delete",
        "Get",
        "Head",
        "List",
        "Post",
        "Replay",
    }
