"""Large files in parts, from several threads: an upload that was cut goes on with the parts that are not there."""

import hashlib
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from storage.client.answers import NotFound, StoreError
from storage.client.arguments import unquoted
from storage.client.aws import file_part, translated
from storage.client.notes import Note, Notes
from storage.client.pieces import MAX_PARTS, MIB, PART_BYTES, READ_BYTES
from storage.client.width import Width

ALGORITHM = "CRC32"
Told = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Large:
    """A file and where it goes (Bucket and Key). `sent` and `kept` hear of bytes: that went, that were there."""

    file: Path
    place: Mapping[str, str]
    sent: Told
    kept: Told


@dataclass(frozen=True, slots=True)
class Part:
    """`size` bytes of a file from `start` on; parts count from 1."""

    number: int
    start: int
    size: int


class PartedUploads:
    """A context for uploads over one client: `num_files` at once, at most `num_parts` of all of them.

    Whoever leaves it by an exception ends what is under way.
    """

    def __init__(self, client: Any, notes: Notes, num_files: int, num_parts: int) -> None:
        self._client, self._notes = client, notes
        self._files = ThreadPoolExecutor(num_files, thread_name_prefix="file")
        self._parts = ThreadPoolExecutor(num_parts, thread_name_prefix="part")
        self._width = Width(num_parts)
        self._stopped = threading.Event()
        client.meta.events.register("before-send.s3", self._check)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._stopped.set()
        for threads in (self._parts, self._files):
            threads.shutdown(wait=error is None, cancel_futures=True)
        for threads in (self._parts, self._files):
            threads.shutdown()

    def begin(self, large: Large) -> Future[None]:
        """Upload a file, or the rest of it. Its end raises: StoreError, OSError."""
        return self._files.submit(self._send, large)

    def _check(self, **_: Any) -> None:
        """Before each try of a request. Raises: StoreError if nobody waits for it any more."""
        if self._stopped.is_set():
            raise StoreError("GivenUp", "the upload was given up")

    def _send(self, large: Large) -> None:
        with self._notes.of(self._client.meta.endpoint_url, large.place) as note, translated():
            where, there = self._begun(large, note)
            try:
                self._finish(large, where, there)
            except BaseException:
                if not note.is_kept:
                    self._abort(where)
                raise

    def _abort(self, where: Mapping[str, str]) -> None:
        """As far as that can be: the failure that led here is the one to hear of."""
        with suppress(StoreError), translated():
            self._client.abort_multipart_upload(**where)

    def _begun(self, large: Large, note: Note) -> tuple[dict[str, str], Mapping[int, Any]]:
        """The upload of the try before, with the parts that it has; a new one if there is none."""
        if note.upload_id:
            where = {**large.place, "UploadId": note.upload_id}
            with suppress(NotFound):
                return where, self._parts_of(where)
        begun = self._client.create_multipart_upload(**large.place, ChecksumAlgorithm=ALGORITHM)
        note.write(begun["UploadId"])
        return {**large.place, "UploadId": begun["UploadId"]}, {}

    def _parts_of(self, where: Mapping[str, str]) -> Mapping[int, Any]:
        with translated():
            pages = self._client.get_paginator("list_parts").paginate(**where)
            return {row["PartNumber"]: row for page in pages for row in page.get("Parts", ())}

    def _finish(self, large: Large, where: Mapping[str, str], there: Mapping[int, Any]) -> None:
        running = [
            self._parts.submit(self._part, large, where, part, there.get(part.number))
            for part in parts_of(large.file.stat().st_size)
        ]
        done = {"Parts": _results(running)}
        self._client.complete_multipart_upload(**where, MultipartUpload=done)

    def _part(self, large: Large, where: Mapping[str, str], part: Part, row: Any) -> dict[str, Any]:
        """See that a part is there; what completing asks for."""
        if row is not None and row["Size"] == part.size and unquoted(row["ETag"]) == _md5(large.file, part):
            large.kept(part.size)
            return _named(part, row)

        def sent(num_bytes: int) -> None:
            if self._stopped.is_set():
                raise InterruptedError("the upload was given up")  # the next try is not made: `_check`
            large.sent(num_bytes)

        with self._width.turn(), file_part(large.file, part.start, part.size, sent) as body:
            answer = self._client.upload_part(
                PartNumber=part.number, Body=body, ChecksumAlgorithm=ALGORITHM, **where
            )
        return _named(part, answer)


def parts_of(size: int) -> list[Part]:
    """A file's parts: of `PART_BYTES`, or so many MiB that S3's limit of parts holds it."""
    each = max(PART_BYTES, -(-size // MAX_PARTS // MIB) * MIB)
    return [Part(n + 1, at, min(each, size - at)) for n, at in enumerate(range(0, size, each))]


def _results(running: list[Future[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Of all, or the first failure, for which nobody waits and no other part begins."""
    done, waiting = wait(running, return_when=FIRST_EXCEPTION)
    for each in waiting:
        each.cancel()
    for each in done:
        each.result()
    return [each.result() for each in running]


def _named(part: Part, answer: Mapping[str, Any]) -> dict[str, Any]:
    """A part as completing names it: by what the store said of it; not every store says a checksum."""
    checksum = f"Checksum{ALGORITHM}"
    said = {checksum: answer[checksum]} if checksum in answer else {}
    return {"PartNumber": part.number, "ETag": answer["ETag"], **said}


def _md5(file: Path, part: Part) -> str:
    """In hex, of a part of a file as it is now."""
    digest, left = hashlib.md5(usedforsecurity=False), part.size
    with file.open("rb") as opened:
        opened.seek(part.start)
        while left and (data := opened.read(min(READ_BYTES, left))):
            digest.update(data)
            left -= len(data)
    return digest.hexdigest()
