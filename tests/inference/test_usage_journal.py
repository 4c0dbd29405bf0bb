"""A node's journal: killed between any two things it does to its disk, or within one, each record is there once."""

import asyncio
import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from inference.usage import journal as journaling
from inference.usage.book import Book
from inference.usage.journal import MAX_UNWRITTEN, Journal, read_records
from inference.usage.meter import Account
from inference.usage.own_log import Told
from inference.usage.recovery import last_lines
from inference.usage.ship import Ship
from tests.evidence import count

Line = dict[str, Any]


def lines_of(number: int) -> list[Line]:
    attempt = f"b-1:{number}"
    return [
        {"line": "open", "attempt": attempt, "request": f"req_{number}", "log": "b-1", "orders": [number, 1],
         "prompt_tokens": 5, "start": 1.0},
        {"line": "answer", "attempt": attempt, "outcome": "finished", "completion_tokens": number},
        {"line": "account", "attempt": attempt, "device_us": number},
    ]  # fmt: skip


def test_three_lines_are_a_record_whatever_their_order_and_however_often() -> None:
    book = Book()
    opened, answer, account = lines_of(7)
    found = [book.receive(line) for line in (opened, opened, account, account, answer, answer, opened)]

    assert [each is not None for each in found] == [False, False, False, False, True, False, False]
    (record,) = book.complete
    assert record | {"line": "account"} == opened | answer | account
    assert "line" not in record
    assert book.receive(lines_of(8)[1]) is None, "an answer of nothing that was opened"
    assert list(book.unfinished()) == []


class Killed(BaseException):
    """The process is gone: nothing after this was done."""


class Disk:
    """Counts what is done to the disk and kills at one of it; a write that is killed may have done a part."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: int | None = None
        self.num_done = 0
        for name in ("write", "fsync", "open", "close"):
            self._guard(monkeypatch, journaling.os, name)
        for name in ("replace", "unlink"):
            self._guard(monkeypatch, Path, name)

    def _guard(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def guarded(*args: Any, **kwargs: Any) -> Any:
            if self.left is not None:
                self.num_done += 1
                if self.num_done > self.left:
                    if name == "write" and self.num_done == self.left + 1:
                        real(args[0], args[1][: len(args[1]) // 2])
                    raise Killed
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, guarded)


async def work(folder: Path, store: dict[str, bytes], answered: set[str], first: int) -> None:
    """Requests come and are answered; twice in between what is there is sealed and brought to the store."""
    journal, ship = Journal(folder), Ship(Store(store), "iad", "n")
    for number in range(first, first + 8):
        for line in lines_of(number):
            journal.append(line)
            if line["line"] == "account":
                answered.add(line["attempt"])
        if number % 3 == 2:
            await journal.sync()
            while await journal.seal():
                pass
            await ship.records(journal.waiting())
    journal.close()


class Store:
    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = objects

    async def put_once(self, bucket: str, key: str, data: bytes) -> bool:
        assert bucket == "nearfield-system"
        return self.objects.setdefault(key, data) == data


def there(folder: Path, store: dict[str, bytes]) -> list[str]:
    """The attempt of each record: in the store, in sealed files that it lacks, in the journal as a start reads it."""
    journal = Journal(folder)
    shipped = {key.rpartition("/")[2] for key in store}
    sealed = [path for path in journal.waiting() if f"{path.stem.rpartition('-')[2]}.jsonl" not in shipped]
    found = [json.loads(line) for data in store.values() for line in data.splitlines()]
    found += [record for path in sealed for record in read_records(path)]
    found += journal.book.complete
    journal.close()
    return [record["attempt"] for record in found]


def test_killed_at_any_operation_each_answered_request_is_there_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so it is once the next life has gone on: also what was brought to the store before it was forgotten here."""
    monkeypatch.setattr(journaling.asyncio, "to_thread", _at_once)
    disk, kills = Disk(monkeypatch), 0
    for number in range(0, 1000, count(4, 1)):
        folder, store, answered = tmp_path / str(number), dict[str, bytes](), set[str]()
        folder.mkdir()
        disk.left, disk.num_done = number, 0
        killed = False
        try:
            asyncio.run(work(folder, store, answered, 0))
        except Killed:
            killed = True
        disk.left = None
        before = there(folder, store)

        assert len(before) == len(set(before)), number
        assert set(before) >= answered, number
        asyncio.run(work(folder, store, answered, 100))
        after = there(folder, store)
        assert len(after) == len(set(after)), number
        assert set(after) == answered | set(before), number
        if not killed:
            break
        kills += 1
    assert kills > 10


async def _at_once(work: Any, *args: Any, **kwargs: Any) -> Any:
    return work(*args, **kwargs)


async def test_what_is_sent_twice_meets_itself_and_nobody_writes_over(tmp_path: Path) -> None:
    journal, objects = Journal(tmp_path), dict[str, bytes]()
    for line in lines_of(1):
        journal.append(line)
    assert await journal.seal()
    (path,) = journal.waiting()
    data = path.read_bytes()
    ship = Ship(Store(objects), "iad", "n-1")
    await ship.records([path])
    path.write_bytes(data)  # killed before it was deleted
    await ship.records([path])
    (key,) = objects

    assert objects == {key: data}
    assert key.startswith("usage/iad/n-1/20")
    assert key.endswith("/00000001.jsonl")
    assert journal.waiting() == []
    path.write_bytes(data + b"{}\n")
    with pytest.raises(OSError, match="other bytes"):
        await ship.records([path])
    assert path.exists()
    assert objects == {key: data}
    await Ship(None, "iad", "n-1").records([path])
    assert path.exists(), "without a store everything stays"


async def test_a_disk_that_takes_nothing_is_told_early_and_loses_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    there, full = journal._file, os.open("/dev/full", os.O_WRONLY)
    journal._file = full
    taken = 0
    while journal.takes_more:
        journal.append(lines_of(taken)[0])
        taken += 1
    assert taken == MAX_UNWRITTEN == journal.num_unwritten
    journal._file = there
    os.close(full)
    journal.retry()

    assert journal.takes_more
    assert journal.num_unwritten == 0
    assert len(read_records(tmp_path / "journal-00000001.jsonl")) == taken
    journal.close()


async def test_a_disk_that_cannot_sync_is_not_trusted_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages that failed are dropped by the kernel: everything is written anew from memory."""
    journal = Journal(tmp_path)
    journal.append(lines_of(1)[0])
    real = os.fsync

    def broken(fd: int) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(journaling.os, "fsync", broken)
    await journal.sync()
    assert not journal.takes_more
    with pytest.raises(OSError, match="input/output"):
        await journal.seal()
    monkeypatch.setattr(journaling.os, "fsync", real)
    await journal.seal()

    assert journal.takes_more
    (path,) = tmp_path.glob("journal-*.jsonl")  # noqa: ASYNC240 - a test
    assert [line["attempt"] for line in read_records(path)] == ["b-1:1"]
    journal.close()


def test_requests_of_a_killed_node_get_the_end_they_had() -> None:
    """One was answered and waits for its cost, one was not; one has an engine that is not gone yet."""
    answered, lost, alive = ({line["line"]: line for line in lines_of(number)} for number in (1, 2, 3))
    del answered["account"], lost["account"], lost["answer"], alive["account"]
    alive["open"]["log"] = "b-2"
    told = {"b-1": Told({"1": Account(9, 4, 400)}, {"2": Account(6, 2, 200)})}
    lines = list(last_lines([answered, lost, alive], told))

    assert [(line["line"], line["attempt"]) for line in lines] == [
        ("account", "b-1:1"), ("answer", "b-1:2"), ("account", "b-1:2"),
    ]  # fmt: skip
    assert lines[0]["device_us"] == 400
    assert (lines[1]["outcome"], lines[1]["completion_tokens"], lines[1]["prompt_tokens"]) == (
        "node_lost",
        2,
        5,
    )
    assert (lines[2]["computed_tokens"], lines[2]["sampled_tokens"], lines[2]["device_us"]) == (6, 2, 200)
