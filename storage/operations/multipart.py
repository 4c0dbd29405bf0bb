"""Multipart uploads: parts go to disk as they come, completing moves rows and no bytes."""

import asyncio
import secrets

from storage.checksum import ALGORITHMS, BY_HEADER, parse_algorithm, parse_type
from storage.fault import S3Error
from storage.http.bodyplan import MAX_PUT_BYTES, plan_body
from storage.http.conditions import iso_date
from storage.http.document import MAX_DOCUMENT_BYTES, Element, Node, parse, write
from storage.http.ingest import Ingest
from storage.http.receive import read_document, receive
from storage.http.reply import XML, Reply
from storage.http.request import S3Request
from storage.index.reads import demand_bucket, demand_upload, read_parts
from storage.index.rows import PartRow, UploadRow
from storage.index.tags import TAGGING, parse_header
from storage.index.uploads import (
    Completion,
    NamedPart,
    abort_upload,
    complete_upload,
    create_upload,
    put_part,
)
from storage.operations.asked import acl_asked, kept_headers, write_conditions
from storage.operations.buckets import count_asked, owner_nodes
from storage.operations.shown import checksum_headers, checksum_nodes, version_headers
from storage.store import Store
from wire.serve import Exchange

MAX_PARTS = 10_000  # S3's limit for one upload
OVERTAKEN_S = 0.2  # how long a part that looks like the last waits for the heads of the others
NUM_LOOKS = 20


async def create(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """CreateMultipartUpload."""
    await read_document(exchange, request, MAX_DOCUMENT_BYTES, store.pool)
    name = request.get("x-amz-checksum-algorithm")
    algorithm = parse_algorithm(name) if name else None
    kind = parse_type(algorithm, request.get("x-amz-checksum-type")) if algorithm else None
    upload = UploadRow(
        secrets.token_hex(16),
        request.bucket,
        request.key,
        0,
        kept_headers(request) + parse_header(request.get(TAGGING)),
        algorithm.name if algorithm else None,
        kind,
        store.blobs.new_id(),
        acl_asked(store, request),
    )
    await store.commit(lambda tx: create_upload(tx, upload))
    nodes: list[Node] = [("Bucket", request.bucket), ("Key", request.key), ("UploadId", upload.id)]
    declared = (("x-amz-checksum-algorithm", upload.algorithm), ("x-amz-checksum-type", kind))
    headers = tuple((name, value) for name, value in declared if value)
    return Reply(200, XML + headers, write("InitiateMultipartUploadResult", nodes))


def part_number(request: S3Request) -> int:
    """The part's number. Raises: S3Error InvalidArgument."""
    raw = request.query.get("partNumber", "")
    number = int(raw) if raw.isascii() and raw.isdigit() and len(raw) < 6 else 0
    if not 1 <= number <= MAX_PARTS:
        raise S3Error(
            "InvalidArgument", f"Part number must be an integer between 1 and {MAX_PARTS}, inclusive"
        )
    return number


async def put_one(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """UploadPart."""
    number = part_number(request)
    upload = demand_upload(store.index.reader(), request.bucket, request.key, request.query["uploadId"])
    plan = plan_body(request, MAX_PUT_BYTES, upload.algorithm)
    await _let_others_come(store, upload, number, plan.size)
    ingest = Ingest(plan, request, lambda: store.slabs.writer(upload, number, plan.size), store.beside)
    received = await receive(exchange, ingest, store.pool)
    row = PartRow(number, received.size, received.etag, 0, received.extents, received.checksum)
    part = await store.commit_body(ingest, lambda tx: put_part(tx, upload, row))
    return Reply(200, (("etag", f'"{part.etag}"'), *checksum_headers(part.checksum)[:1]))


async def _let_others_come(store: Store, upload: UploadRow, number: int, size: int) -> None:
    """Clients send several parts at once; the short last one must not be the measure of the slab."""
    for _ in range(NUM_LOOKS):
        if not store.slabs.announce(upload, number, size):
            return
        await asyncio.sleep(OVERTAKEN_S / NUM_LOOKS)


async def complete(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """CompleteMultipartUpload."""
    data = await read_document(exchange, request, MAX_DOCUMENT_BYTES, store.pool)
    parts = [_named_part(element) for element in parse(data, "CompleteMultipartUpload").all("Part")]
    if not 0 < len(parts) <= MAX_PARTS:
        raise S3Error("MalformedXML", f"CompleteMultipartUpload takes 1 to {MAX_PARTS} parts.")
    raw_size = request.get("x-amz-mp-object-size") or ""
    asked = Completion(
        request.bucket,
        request.key,
        request.query["uploadId"],
        parts,
        write_conditions(request),
        store.min_part_bytes,
        int(raw_size) if raw_size.isascii() and raw_size.isdigit() else None,
        next((value for name, value in request.head.headers if name in BY_HEADER), None),
    )
    row = await store.commit(lambda tx: complete_upload(tx, asked))
    shown = version_headers(store, row)
    store.slabs.forget(asked.upload)
    nodes: list[Node] = [
        ("Location", f"/{request.bucket}/{request.key}"),
        ("Bucket", request.bucket),
        ("Key", request.key),
        ("ETag", f'"{row.etag}"'),
    ]
    return Reply(
        200, XML + shown, write("CompleteMultipartUploadResult", nodes + checksum_nodes(row.checksum))
    )


def _named_part(element: Element) -> NamedPart:
    number = element.need("PartNumber")
    if not (number.isascii() and number.isdigit() and len(number) < 6):
        raise S3Error("MalformedXML", "PartNumber must be a number.")
    found = {name: element.value(f"Checksum{name}") for name in ALGORITHMS}
    return NamedPart(
        int(number), element.need("ETag").strip('"'), {name: value for name, value in found.items() if value}
    )


async def abort(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """AbortMultipartUpload."""
    del exchange
    upload_id = request.query["uploadId"]
    await store.commit(lambda tx: abort_upload(tx, request.bucket, request.key, upload_id))
    store.slabs.forget(upload_id)
    return Reply(204)


async def list_parts(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """ListParts."""
    del exchange
    reader = store.index.reader()
    upload = demand_upload(reader, request.bucket, request.key, request.query["uploadId"])
    owner = owner_nodes(upload.acl.owner if upload.acl else demand_bucket(reader, request.bucket))
    most = count_asked(request, "max-parts")
    after = (
        count_asked(request, "part-number-marker", MAX_PARTS) if "part-number-marker" in request.query else 0
    )
    parts = [part for number, part in read_parts(reader, upload.id).items() if number > after]
    shown = parts[:most]
    nodes: list[Node] = [
        ("Bucket", request.bucket),
        ("Key", request.key),
        ("UploadId", upload.id),
        ("Initiator", owner),
        ("Owner", owner),
        ("StorageClass", "STANDARD"),
        ("PartNumberMarker", str(after)),
        ("MaxParts", str(most)),
        ("IsTruncated", "true" if len(parts) > len(shown) else "false"),
    ]
    if shown and len(parts) > len(shown):
        nodes.append(("NextPartNumberMarker", str(shown[-1].number)))
    if upload.algorithm and upload.checksum_type:
        nodes += [("ChecksumAlgorithm", upload.algorithm), ("ChecksumType", upload.checksum_type)]
    return Reply(200, XML, write("ListPartsResult", nodes + [("Part", _part_nodes(part)) for part in shown]))


def _part_nodes(part: PartRow) -> list[Node]:
    nodes: list[Node] = [
        ("PartNumber", str(part.number)),
        ("LastModified", iso_date(part.modified_ms)),
        ("ETag", f'"{part.etag}"'),
        ("Size", str(part.size)),
    ]
    return nodes + checksum_nodes(part.checksum)[:1]
