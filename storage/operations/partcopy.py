"""UploadPartCopy: a part that names bytes an object has already. They are read once, for their sums; none moves."""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from storage.checksum import Checksum, Hasher, crc64nvme, encode_digest, parse_algorithm
from storage.fault import S3Error
from storage.http.bodyplan import MAX_PUT_BYTES
from storage.http.conditions import iso_date
from storage.http.document import Node, write
from storage.http.reply import XML, Reply
from storage.http.request import S3Request
from storage.http.sinks import Sink
from storage.index.copies import CopySource
from storage.index.database import Transaction
from storage.index.reads import demand_object, demand_same, demand_upload, read_inline
from storage.index.rows import Extent, ObjectRow, PartRow, UploadRow
from storage.index.uploads import put_part
from storage.operations.multipart import part_number
from storage.operations.objects import copy_source
from storage.operations.reads import slices_of
from storage.operations.shown import checksum_nodes
from storage.store import Store
from wire.serve import Exchange

READ_BYTES = 1024 * 1024
_RANGE = re.compile(r"bytes=(\d{1,19})-(\d{1,19})")


async def copy_part(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """UploadPartCopy. If the source is overwritten meanwhile, the caller must come again."""
    del exchange
    number = part_number(request)
    reader = store.index.reader()
    upload = demand_upload(reader, request.bucket, request.key, request.query["uploadId"])
    source = copy_source(store, request)
    row = demand_object(reader, source.bucket, source.key, source.version)
    demand_same(row, source.judged)
    source.check(row)
    first, length = _span(request.get("x-amz-copy-source-range"), row)
    pieces = slices_of(row.extents, first, length)
    measured, sink = await store.in_thread(lambda: _measure(store, upload, number, pieces))

    def apply(tx: Transaction) -> PartRow:
        _demand_unchanged(tx, source, row)
        return put_part(tx, upload, measured)

    part = await (store.commit(apply) if sink is None else store.commit_body(sink, apply))
    nodes: list[Node] = [("LastModified", iso_date(part.modified_ms)), ("ETag", f'"{part.etag}"')]
    shown = () if source.version is None else (("x-amz-copy-source-version-id", source.version),)
    return Reply(200, XML + shown, write("CopyPartResult", nodes + checksum_nodes(part.checksum)[:1]))


def _demand_unchanged(tx: Transaction, source: CopySource, row: ObjectRow) -> None:
    """What was measured must be what the part will name. Raises: S3Error ServiceUnavailable."""
    demand_same(demand_object(tx.db, source.bucket, source.key, source.version), row.seq)


def _span(raw: str | None, row: ObjectRow) -> tuple[int, int]:
    """(first byte, length) of x-amz-copy-source-range. Raises: S3Error."""
    if raw is None:
        first, length = 0, row.size
    else:
        match = _RANGE.fullmatch(raw)
        if match is None or int(match[2]) < int(match[1]):
            raise S3Error(
                "InvalidArgument", "x-amz-copy-source-range is bytes=first-last.", ArgumentValue=raw
            )
        first, length = int(match[1]), int(match[2]) - int(match[1]) + 1
        if first + length > row.size:
            raise S3Error(
                "InvalidRange",
                "The requested range is not satisfiable",
                RangeRequested=raw,
                ActualObjectSize=str(row.size),
            )
    if length > MAX_PUT_BYTES:
        raise S3Error("InvalidRequest", "A part that is copied has at most 5 GiB.")
    return first, length


def _measure(
    store: Store, upload: UploadRow, number: int, pieces: list[Extent]
) -> tuple[PartRow, Sink | None]:
    """The part, and where its bytes went if they were in the index: a few KiB, which a part cannot name there.

    Raises: S3Error, OSError.
    """
    md5 = hashlib.md5(usedforsecurity=False)
    algorithm = parse_algorithm(upload.algorithm) if upload.algorithm else None
    checksum = algorithm.hasher() if algorithm else None
    hashers = (md5,) if checksum is None else (md5, checksum)
    store.blobs.pin(piece.blob for piece in pieces)
    try:
        extents = tuple(_summed(store, piece, hashers) for piece in pieces)
    finally:
        store.blobs.unpin(piece.blob for piece in pieces)
    sink = None
    if extents and extents[0].inline:  # an inline object is one extent
        sink, extents = _into_a_file(store, extents[0])
    shown = Checksum(algorithm.name, encode_digest(checksum.digest())) if algorithm and checksum else None
    size = sum(extent.length for extent in extents)
    return PartRow(number, size, md5.hexdigest(), 0, extents, shown), sink


def _summed(store: Store, piece: Extent, hashers: Iterable[Hasher]) -> Extent:
    """The piece with the CRC of exactly its bytes; each hasher has taken them."""
    crc = crc64nvme()
    for data in _read(store, piece):
        crc.update(data)
        for hasher in hashers:
            hasher.update(data)
    return replace(piece, crc64=crc.value)


def _into_a_file(store: Store, piece: Extent) -> tuple[Sink, tuple[Extent, ...]]:
    """Write an inline extent to a blob. Raises: OSError, and leaves nothing behind."""
    sink = store.blobs.create(piece.length)
    try:
        for data in _read(store, piece):
            sink.write(data)
        sink.publish()
    except (OSError, S3Error):
        sink.abort()
        raise
    return sink, (replace(piece, blob=sink.blob, offset=0),)


def _read(store: Store, piece: Extent) -> list[bytes] | Iterator[bytes]:
    if not piece.inline:
        return _read_file(store, piece)
    data = read_inline(store.index.reader(), piece)
    if data is None:
        raise S3Error("ServiceUnavailable", "The source was overwritten while it was read; try again.")
    return [data]


def _read_file(store: Store, piece: Extent) -> Iterator[bytes]:
    fd = store.blobs.open(piece.blob)
    try:
        done = 0
        while done < piece.length:
            data = os.pread(fd, min(READ_BYTES, piece.length - done), piece.offset + done)
            if not data:
                raise OSError("a blob is shorter than its row says")
            done += len(data)
            yield data
    finally:
        os.close(fd)
