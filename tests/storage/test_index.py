import itertools
import sqlite3
import sys
import threading
from collections import Counter

import pytest

from storage.fault import S3Error, StoreBroken
from storage.index.buckets import create_bucket, delete_bucket
from storage.index.columns import unpack_extents
from storage.index.conditions import Conditions
from storage.index.copies import CopySource, CopyTarget, copy_object
from storage.index.database import Index
from storage.index.objects import ANY, delete_object, put_object
from storage.index.rows import Extent, ObjectRow, PartRow, UploadRow
from storage.index.uploads import Completion, NamedPart, complete_upload, create_upload, put_part


@pytest.fixture
def index(tmp_path):
    opened = Index(tmp_path / "meta.db")
    opened.commit(lambda tx: create_bucket(tx, "models")).result()
    yield opened
    opened.close()


def row(key: str, *blobs: str) -> ObjectRow:
    extents = tuple(Extent(blob, 0, 10, 7) for blob in blobs)
    return ObjectRow("models", key, 10 * len(blobs), f"etag-{key}", 0, (("content-type", "a/b"),), extents)


def put(index: Index, one: ObjectRow, conditions: Conditions = ANY) -> ObjectRow:
    return index.commit(lambda tx: put_object(tx, one, conditions)).result()


def check_references(db: sqlite3.Connection) -> None:
    """The counts say what the extents say, and no row names a blob that is not counted."""
    counted = Counter()
    for table in ("objects", "versions", "parts"):
        for (extents,) in db.execute(f"SELECT extents FROM {table}"):
            counted.update(extent.blob for extent in unpack_extents(extents))
    counted.update(slab for (slab,) in db.execute("SELECT slab FROM uploads"))
    assert dict(db.execute("SELECT id, refs FROM blobs")) == dict(counted)


def test_what_is_put_is_found(index):
    done = put(index, row("a", "b1", "b2"))

    found = index.reader().execute("SELECT size, etag, seq FROM objects").fetchall()

    assert found == [(20, "etag-a", done.seq)]
    check_references(index.reader())


def test_the_last_reference_frees_the_blob(index):
    dead = []
    index.on_dead = dead.extend
    put(index, row("a", "b1"))
    source, target = CopySource("models", "a"), CopyTarget("models", "c", None, None)
    index.commit(lambda tx: copy_object(tx, source, target)).result()

    index.commit(lambda tx: delete_object(tx, "models", "a")).result()
    assert dead == []
    put(index, row("c", "b2"))

    assert dead == ["b1"]
    check_references(index.reader())


def test_a_refused_change_leaves_no_trace_beside_others_in_its_batch(index):
    gate = threading.Event()
    index.commit(lambda tx: gate.wait(60))
    first = index.commit(lambda tx: put_object(tx, row("a", "b1")))
    refused = index.commit(lambda tx: put_object(tx, row("a", "b2"), Conditions(if_none_match=("*",))))
    third = index.commit(lambda tx: put_object(tx, row("c", "b3")))
    gate.set()

    assert first.result().seq < third.result().seq
    with pytest.raises(S3Error, match="PreconditionFailed"):
        refused.result()
    assert index.reader().execute("SELECT count(*) FROM events").fetchone() == (2,)
    check_references(index.reader())


def test_completing_moves_references_and_joins_neighbours(index):
    upload = UploadRow("u1", "models", "big", 0, (), None, None, "slab")
    index.commit(lambda tx: create_upload(tx, upload)).result()
    for number in (2, 1, 3):
        part = PartRow(number, 10, f"{number:032x}", 0, (Extent("slab", (number - 1) * 10, 10, number),))
        index.commit(lambda tx, part=part: put_part(tx, upload, part)).result()
    again = PartRow(3, 5, f"{9:032x}", 0, (Extent("own", 0, 5, 9),))
    index.commit(lambda tx: put_part(tx, upload, again)).result()
    check_references(index.reader())

    named = [NamedPart(1, f"{1:032x}", {}), NamedPart(2, f"{2:032x}", {}), NamedPart(3, f"{9:032x}", {})]
    asked = Completion("models", "big", "u1", named, Conditions(), 1)
    done = index.commit(lambda tx: complete_upload(tx, asked)).result()

    assert [(extent.blob, extent.offset, extent.length) for extent in done.extents] == [
        ("slab", 0, 20),
        ("own", 0, 5),
    ]
    assert done.etag.endswith("-3")
    assert index.commit(lambda tx: complete_upload(tx, asked)).result() == done
    check_references(index.reader())


def test_deleting_a_bucket_takes_its_uploads_along(index):
    dead = []
    index.on_dead = dead.extend
    upload = UploadRow("u1", "models", "big", 0, (), None, None, "slab")
    index.commit(lambda tx: create_upload(tx, upload)).result()
    index.commit(lambda tx: put_part(tx, upload, PartRow(1, 1, "e", 0, (Extent("b1", 0, 1, 1),)))).result()

    index.commit(lambda tx: delete_bucket(tx, "models")).result()

    assert set(dead) == {"slab", "b1"}
    check_references(index.reader())


def test_a_full_disk_refuses_and_recovers(index):
    pages = index._db.execute("PRAGMA page_count").fetchone()[0]
    index._db.execute(f"PRAGMA max_page_count={pages + 2}")
    fat = ObjectRow("models", "fat", 0, "e", 0, (("x-amz-meta-a", "x" * 50_000),), ())

    with pytest.raises(S3Error, match="InsufficientStorage"):
        put(index, fat)
    index._db.execute("PRAGMA max_page_count=1000000")

    assert put(index, fat).seq == 1


def test_any_other_failure_stops_the_index_for_good(index):
    told = threading.Event()
    index.on_broken = told.set

    def fail(tx):
        raise sqlite3.OperationalError("disk I/O error")

    with pytest.raises(StoreBroken):
        index.commit(fail).result(5)
    assert told.wait(60)
    with pytest.raises(StoreBroken):
        put(index, row("a", "b1"))


def test_each_opening_has_its_own_epoch(tmp_path):
    epochs = []
    for _ in range(3):
        index = Index(tmp_path / "meta.db")
        epochs.append(index.epoch)
        index.close()

    assert epochs == [1, 2, 3]


def test_many_callers_share_commits(index):
    commits = []
    index.on_commit = commits.append
    gate = threading.Event()
    index.commit(lambda tx: gate.wait(60))
    futures = [index.commit(lambda tx, n=n: put_object(tx, row(f"k{n}", f"b{n}"))) for n in range(200)]
    gate.set()

    assert len({future.result().seq for future in futures}) == 200
    assert len(commits) <= 3


def test_completion_grows_with_the_parts_and_not_with_their_square(index):
    """Ten times the parts; the seconds themselves are in `python -m bench storage`."""
    few, many = (complete_parts(index, count) for count in (400, 4_000))

    assert all(at_least >= 400 for at_least in few)
    assert all(more < 20 * less for less, more in zip(few, many, strict=True))


def complete_parts(index, count) -> tuple[int, int]:
    """What it takes, whatever else the machine does: SQLite's instructions, and calls made in Python."""
    upload = UploadRow(f"u{count}", "models", "big", 0, (), None, None, "slab")

    def load(tx):
        create_upload(tx, upload)
        for n in range(1, count + 1):
            part = PartRow(n, 10, f"{n:032x}", 0, (Extent(f"{upload.id}-{n}", 0, 10, n),))
            put_part(tx, upload, part)

    index.commit(load).result()
    named = [NamedPart(n, f"{n:032x}", {}) for n in range(1, count + 1)]
    asked = Completion("models", "big", upload.id, named, Conditions(), 1)
    done, steps = index.commit(lambda tx: counted(tx, lambda: complete_upload(tx, asked))).result()

    assert len(done.extents) == count
    return steps


def counted(tx, act):
    instructions, calls = itertools.count(), itertools.count()
    tx.db.set_progress_handler(lambda: next(instructions) * 0, 1)
    sys.setprofile(lambda *event: next(calls))
    try:
        done = act()
    finally:
        sys.setprofile(None)
        tx.db.set_progress_handler(None, 0)
    return done, (next(instructions), next(calls))
