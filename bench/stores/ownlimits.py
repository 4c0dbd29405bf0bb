"""What no peer is needed for: listing many keys, ten thousand parts, memory under an upload, the start."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import Self
from urllib.parse import quote
from xml.etree import ElementTree as ET

from bench.blast import NUM_CONNECTIONS, Line, head_of
from bench.rows import Row, compare
from bench.servers import Served, ours
from storage.auth.key import BucketName, ObjectKey
from storage.client.sdk import url_path
from storage.index.buckets import create_bucket
from storage.index.database import Index, Transaction
from storage.index.objects import put_object
from storage.index.rows import ObjectRow

MIB = 1 << 20
BUCKET = "bench"
PAGE_KEYS = 1000
NUM_PAGES_COMPARED = 20  # at each end; their medians are compared
FILL_KEYS = 10_000  # rows of one transaction when a bucket is filled
NUM_WAITING = 8  # such transactions queued
UPLOAD_PART_BYTES = 16 * MIB
SMALL_PART_BYTES = 4096
SAMPLE_S = 0.02
READY_S = 1.0  # the issue's
MEMORY_MIB = 150.0
COMPLETE_S = 1.0
GROWTH = 0.67  # a last page may take 1.5 times the first: both are a few milliseconds on a shared machine
_NS = "{http://s3.amazonaws.com/doc/2006-03-01/}"

Say = Callable[[str], None]


def start(scratch: Path, num_starts: int) -> list[Row]:
    """Seconds from starting the process to its first 200, on a fresh folder each time."""
    times = []
    for number in range(num_starts):
        with ours(scratch / f"start-{number}") as served:
            times.append(served.ready_s)
    what = "start of the process to the first 200, against the limit"
    return [compare(what, median(times), READY_S, "s", better="lower", target=1.0)]


def listing(scratch: Path, num_keys: int, say: Say) -> list[Row]:
    """First pages against last, whole walk, memory."""
    folder = scratch / "many"
    with ours(folder):
        pass  # makes the folder and its keys
    fill(folder / "store", num_keys, say)
    with ours(folder) as served, Line(served.store) as line:
        line.call("GET", f"/{BUCKET}", "list-type=2&max-keys=1").demand(200)
        before_mib = served.memory_bytes() / MIB
        pages_ms = walk(line, num_keys)
        after_mib = served.memory_bytes() / MIB
    head, tail = (median(part) for part in (pages_ms[:NUM_PAGES_COMPARED], pages_ms[-NUM_PAGES_COMPARED:]))
    what = f"a page of {PAGE_KEYS} of {num_keys:,} keys: the last against the first"
    return [
        compare(what, tail, head, "ms", better="lower", target=GROWTH),
        compare(
            f"memory after listing {num_keys:,} keys, against before",
            after_mib, before_mib, "MiB", better="lower",
        ),
        compare(
            f"memory after listing {num_keys:,} keys, against the limit",
            after_mib, MEMORY_MIB, "MiB", better="lower", target=1.0,
        ),
    ]  # fmt: skip


def fill(root: Path, num_keys: int, say: Say) -> None:
    """Put `num_keys` empty objects into the bucket by the store's own commits, no store running: 10x faster."""
    index = Index(root / "meta.db")
    try:
        index.commit(lambda tx: create_bucket(tx, BucketName(BUCKET))).result()
        waiting: list[Future[None]] = []
        for start_key in range(0, num_keys, FILL_KEYS):
            keys = range(start_key, min(num_keys, start_key + FILL_KEYS))
            waiting.append(index.commit(partial(_put_keys, numbers=keys)))
            if len(waiting) == NUM_WAITING:
                waiting.pop(0).result()
            if start_key % (50 * FILL_KEYS) == 0:
                say(f"{start_key:,} keys")
        for each in waiting:
            each.result()
    finally:
        index.close()


def _put_keys(tx: Transaction, numbers: Sequence[int]) -> None:
    for number in numbers:
        key = ObjectKey(f"folder-{number % 100:02}/key-{number:09}")
        put_object(tx, ObjectRow(BucketName(BUCKET), key, 0, "d41d8cd98f00b204e9800998ecf8427e", 0, (), ()))


def walk(line: Line, num_keys: int) -> list[float]:
    """Milliseconds of every page of the bucket. Raises: AssertionError unless every key was listed once."""
    pages_ms, num_seen, last, token = [], 0, "", ""
    while True:
        query = f"list-type=2&max-keys={PAGE_KEYS}"
        query += f"&continuation-token={quote(token, safe='')}" if token else ""
        head = head_of(line.store, "GET", f"/{BUCKET}", query)
        started = time.perf_counter()
        answer = line.ask(head).demand(200)
        pages_ms.append(1000 * (time.perf_counter() - started))
        root = ET.fromstring(answer.data)  # noqa: S314 - our own store's answer
        keys = [str(node.text) for node in root.iter(f"{_NS}Key")]
        if keys != sorted(set(keys)) or (last and keys and keys[0] <= last):
            raise AssertionError("a listing must be in order, each key once")
        num_seen, last = num_seen + len(keys), keys[-1]
        token = root.findtext(f"{_NS}NextContinuationToken") or ""
        if not token:
            break
    if num_seen != num_keys:
        raise AssertionError(f"{num_seen} of {num_keys} keys were listed")
    return pages_ms


class Upload:
    """A multipart upload by the raw client."""

    def __init__(self, served: Served, key: str) -> None:
        self._served = served
        self._path = url_path(BUCKET, key)
        with Line(served.store) as line:
            root = ET.fromstring(line.call("POST", self._path, "uploads=").demand(200).data)  # noqa: S314 - as above
        self._id = str(root.findtext(f"{_NS}UploadId"))
        self._etags: dict[int, str] = {}

    def send(self, num_parts: int, data: memoryview) -> None:
        """The same bytes as every part, over the benchmark's connections."""
        with ThreadPoolExecutor(NUM_CONNECTIONS) as pool:
            works = [pool.submit(self._send_some, range(first, num_parts + 1, NUM_CONNECTIONS), data)
                     for first in range(1, NUM_CONNECTIONS + 1)]  # fmt: skip
            for work in works:
                work.result()

    def _send_some(self, numbers: Sequence[int], data: memoryview) -> None:
        with Line(self._served.store) as line:
            for number in numbers:
                query = f"partNumber={number}&uploadId={self._id}"
                head = head_of(line.store, "PUT", self._path, query, size=len(data))
                self._etags[number] = line.ask(head, data).demand(200).headers["etag"]

    def complete(self) -> float:
        """Seconds from sending the list of the parts to the 200."""
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
            for number, etag in sorted(self._etags.items())
        )
        body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
        with Line(self._served.store) as line:
            head = head_of(line.store, "POST", self._path, f"uploadId={self._id}", size=len(body))
            started = time.perf_counter()
            answer = line.ask(head, body).demand(200)
            took_s = time.perf_counter() - started
        if b"<ETag>" not in answer.data:
            raise AssertionError("completing must name the object")
        return took_s


def upload(scratch: Path, num_bytes: int) -> list[Row]:
    """The most memory the store holds while a multipart upload of `num_bytes` runs."""
    with ours(scratch / "upload") as served:
        with Line(served.store) as line:
            line.call("PUT", f"/{BUCKET}").demand(200)
        with Peak(served) as peak:
            before_mib = served.memory_bytes() / MIB
            one = Upload(served, "large")
            one.send(-(-num_bytes // UPLOAD_PART_BYTES), memoryview(os.urandom(UPLOAD_PART_BYTES)))
            one.complete()
    gib = num_bytes / 2**30
    what = f"memory of the store under a multipart upload of {gib:.3g} GiB"
    return [
        compare(f"{what}, most, against the limit", peak.bytes / MIB, MEMORY_MIB, "MiB", better="lower", target=1.0),
        compare(f"{what}, most, against before", peak.bytes / MIB, before_mib, "MiB", better="lower"),
    ]  # fmt: skip


class Peak:
    """The most resident memory of a process within a block, sampled."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self.bytes = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            self.bytes = max(self.bytes, self._served.memory_bytes())


def complete(scratch: Path, num_parts: int) -> list[Row]:
    """Seconds to complete `num_parts` parts, and the bytes of blobs that changed meanwhile."""
    folder = scratch / "parts"
    with ours(folder, small_parts=True) as served:
        with Line(served.store) as line:
            line.call("PUT", f"/{BUCKET}").demand(200)
        one = Upload(served, "parts")
        one.send(num_parts, memoryview(os.urandom(SMALL_PART_BYTES)))
        before = _blobs(folder / "store" / "blobs")
        took_s = one.complete()
        changed = _blobs(folder / "store" / "blobs").items() - before.items()
    moved = sum(size for _, (_, size) in changed)
    what = f"completing {num_parts:,} parts, against the limit"
    return [
        compare(what, took_s, COMPLETE_S, "s", better="lower", target=1.0),
        Row(f"bytes that completing {num_parts:,} parts wrote to blobs", moved, 0, "B", 1.0, None, moved == 0),
    ]  # fmt: skip


def _blobs(folder: Path) -> dict[int, tuple[int, int]]:
    """inode -> (last change in ns, bytes) of every file."""
    found = (path.stat() for path in folder.rglob("*") if path.is_file())
    return {one.st_ino: (one.st_mtime_ns, one.st_size) for one in found}
