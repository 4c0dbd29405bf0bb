"""A large file whose upload was cut goes on where it was, and becomes what the file is now."""

import fcntl
import hashlib
import multiprocessing
import os
import signal
from contextlib import ExitStack, suppress
from itertools import pairwise

import pytest

from storage.client import folder, parted
from storage.client.aws import new_client
from storage.client.notes import Notes
from storage.client.parted import parts_of
from storage.client.pieces import MAX_PARTS, MIB, PART_BYTES
from storage.client.sdk import S3, upload_folder

SIZE = 5 * PART_BYTES + 12_345
KEY = "folder/x/weights"


class Cut(Exception):
    """The upload was ended from outside."""


class Counted:
    """Bytes that went and bytes that were there; ends the upload once `limit` went."""

    def __init__(self, limit: int = 1 << 60, end=None):
        self.sent = self.kept = 0
        self._limit, self._end = limit, end

    def on_sent(self, _path, num_bytes):
        self.sent += num_bytes
        if self.sent >= self._limit:
            self._end()

    def on_kept(self, _path, num_bytes):
        self.kept += num_bytes


def _push(store, file, notes, counted):
    upload_folder(
        store.endpoint(),
        "models",
        "folder/x/",
        [("weights", file)],
        counted.on_sent,
        notes=notes,
        on_kept=counted.on_kept,
    )
    return counted


def _killed(endpoint, file, notes, limit):
    """In a process of its own: so much of it, then SIGKILL."""
    counted = Counted(limit, lambda: os.kill(os.getpid(), signal.SIGKILL))
    upload_folder(endpoint, "models", "folder/x/", [("weights", file)], counted.on_sent, notes=notes)


def _kill_after(store, file, notes, limit):
    child = multiprocessing.get_context("spawn").Process(
        target=_killed, args=(store.endpoint(), file, notes, limit)
    )
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL


def _parts_there(store):
    client = new_client(store.endpoint(), 4)
    (upload,) = client.list_multipart_uploads(Bucket="models", Prefix=KEY)["Uploads"]
    rows = client.list_parts(Bucket="models", Key=KEY, UploadId=upload["UploadId"])
    return [row["PartNumber"] for row in rows.get("Parts", ())]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(SIZE))
    return path


async def _stored(store) -> tuple[str, int]:
    digest = hashlib.sha256()
    async with S3(store.endpoint()) as s3:
        async for piece in s3.stream("models", KEY):
            digest.update(piece)
        return digest.hexdigest(), len(await s3.uploads("models", KEY))


def _sum(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


async def test_a_killed_upload_goes_on_with_the_parts_that_are_not_there(store, file, tmp_path):
    notes = tmp_path / "notes"
    _kill_after(store, file, notes, 5 * PART_BYTES)  # four go at once: the fifth went when one was there
    there = len(_parts_there(store))
    counted = _push(store, file, notes, Counted())

    assert 0 < there < 6
    assert counted.kept >= (there - 1) * PART_BYTES + 12_345
    assert counted.kept + counted.sent == SIZE
    assert await _stored(store) == (_sum(file), 0)
    assert not [*notes.iterdir()]


async def test_a_file_that_changed_meanwhile_becomes_what_it_is_now(store, file, tmp_path):
    """Its first part has other bytes, its last one is longer: both go again, whatever was there of them."""
    notes = tmp_path / "notes"
    _kill_after(store, file, notes, 5 * PART_BYTES)
    there = _parts_there(store)
    with file.open("r+b") as opened:
        opened.write(b"other")
        opened.seek(0, os.SEEK_END)
        opened.write(b"more")
    counted = _push(store, file, notes, Counted())

    same = PART_BYTES * len([number for number in there if number not in (1, 6)])
    assert same <= counted.kept <= 4 * PART_BYTES, (
        "a part may have been whole in the store only after we looked"
    )
    assert await _stored(store) == (_sum(file), 0)


async def test_an_upload_that_is_gone_begins_anew(store, file, tmp_path):
    notes = tmp_path / "notes"
    _kill_after(store, file, notes, 3 * PART_BYTES)
    client = new_client(store.endpoint(), 4)
    (upload,) = client.list_multipart_uploads(Bucket="models", Prefix=KEY)["Uploads"]
    client.abort_multipart_upload(Bucket="models", Key=KEY, UploadId=upload["UploadId"])

    counted = _push(store, file, notes, Counted())
    assert (counted.kept, counted.sent) == (0, SIZE)
    assert await _stored(store) == (_sum(file), 0)


@pytest.fixture
def few_at_once(monkeypatch):
    """Parts of 5 MiB, S3's least, and two of them at once: not all are begun when something happens."""
    monkeypatch.setattr(parted, "PART_BYTES", 5 * MIB)
    monkeypatch.setattr(folder, "NUM_REQUESTS_AT_ONCE", 2)


async def test_an_upload_that_failed_without_notes_leaves_nothing(store, file, few_at_once):
    """The file is gone before all of its parts were read."""
    with pytest.raises(FileNotFoundError):
        _push(store, file, None, Counted(PART_BYTES, lambda: file.unlink(missing_ok=True)))
    async with S3(store.endpoint()) as s3:
        assert not await s3.uploads("models", KEY)


async def test_an_upload_that_failed_with_notes_goes_on(store, file, tmp_path, few_at_once):
    notes, whole = tmp_path / "notes", file.read_bytes()
    with pytest.raises(FileNotFoundError):
        _push(store, file, notes, Counted(PART_BYTES, lambda: file.unlink(missing_ok=True)))
    file.write_bytes(whole)
    counted = _push(store, file, notes, Counted())
    assert counted.kept >= PART_BYTES - 5 * MIB
    assert counted.kept + counted.sent == SIZE
    assert await _stored(store) == (_sum(file), 0)


def test_two_at_once_have_uploads_of_their_own(store, file, tmp_path):
    """Who finds the note in other hands begins another upload: parts of two files never meet."""
    notes, place = tmp_path / "notes", {"Bucket": "models", "Key": KEY}
    with Notes(notes).of(store.endpoint().url, place) as first:
        first.write("of the first one")
        counted = _push(store, file, notes, Counted())
        assert counted.sent == SIZE
    assert not [*notes.iterdir()]


def _cut_note(folder, upload_id=None):
    """What the note on an object says, after an upload that was cut; `upload_id` is written then."""
    with suppress(Cut), Notes(folder).of("http://store", {"Bucket": "b", "Key": "k"}) as note:
        found = note.upload_id, note.is_kept
        if upload_id:
            note.write(upload_id)
        raise Cut
    return found


@pytest.mark.parametrize("written", [b"", b'{"upload_id": "ab', b"[]", b'{"upload_id": 5}', b"\xff"])
def test_a_note_that_says_nothing_is_none(tmp_path, written):
    assert _cut_note(tmp_path, "first") == ("", True)
    assert _cut_note(tmp_path) == ("first", True)
    (file,) = tmp_path.iterdir()
    file.write_bytes(written)
    assert _cut_note(tmp_path) == ("", True)


def test_a_note_that_its_upload_just_took_away_is_not_the_next_ones(tmp_path, monkeypatch):
    """The second opens the file, the first takes it away and gives up its lock, the second locks what lies nowhere."""
    place, lock, hers = {"Bucket": "b", "Key": "k"}, fcntl.flock, ExitStack()

    def late(file, how):
        hers.close()
        lock(file, how)

    first = hers.enter_context(Notes(tmp_path).of("http://store", place))
    first.write("of the first one")
    monkeypatch.setattr(fcntl, "flock", late)
    with Notes(tmp_path).of("http://store", place) as second:
        assert (second.upload_id, second.is_kept) == ("", True)
        second.write("of the second one")
        (file,) = tmp_path.iterdir()
        assert "of the second one" in file.read_text()
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("size", [PART_BYTES, PART_BYTES + 1, MAX_PARTS * PART_BYTES, 5 * 1024**4])
def test_parts_cover_a_file_and_are_not_too_many(size):
    parts = parts_of(size)
    assert len(parts) <= MAX_PARTS
    assert all(left.start + left.size == right.start for left, right in pairwise(parts))
    assert (parts[0].start, parts[-1].start + parts[-1].size) == (0, size)
    assert {each.size % MIB for each in parts[:-1]} <= {0}
