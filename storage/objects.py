"""Operations on one object, and DeleteObjects."""

from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

from storage.blobs import BlobMissing
from storage.checksum import ALGORITHMS, FULL_OBJECT, Checksum, combine_crc64nvme, encode_digest
from storage.commits import (
    CopySource,
    CopyTarget,
    copy_object,
    delete_object,
    demand_bucket,
    demand_object,
    find_object,
    put_object,
    read_inline,
)
from storage.conditions import ReadAsk, http_date, iso_date, parse_date_ms
from storage.document import MAX_DOCUMENT_BYTES, Element, Node, parse, write
from storage.fault import S3Error
from storage.index import Transaction
from storage.ingest import MAX_PUT_BYTES, Ingest, MemorySink, plan_body, read_document, receive
from storage.key import Right, parse_bucket, parse_key
from storage.reply import XML, ManySlices, OneSlice, Reply
from storage.request import S3Request
from storage.rows import INLINE, Conditions, Extent, Headers, ObjectRow, parse_etags
from storage.sound import Unsound, is_sound
from storage.store import Store
from wire.serve import Exchange

MAX_LOOKS = 4  # times a read looks again when an overwrite deleted what it was about to open
MAX_INLINE_BYTES = 16 * 1024  # pointers, configs, manifests: a few pages of the index
MAX_META_BYTES = 2048  # S3's limit on the names and values of x-amz-meta-*
MAX_DELETES = 1000  # S3's limit for one DeleteObjects

META = "x-amz-meta-"
CONTENT_HEADERS = (
    "content-type",
    "content-encoding",
    "content-language",
    "content-disposition",
    "cache-control",
    "expires",
)
DEFAULT_TYPE = ("content-type", "binary/octet-stream")


def kept_headers(request: S3Request) -> Headers:
    """The headers that are stored with an object. Raises: S3Error MetadataTooLarge."""
    kept = {name: value for name, value in request.head.headers if name in CONTENT_HEADERS}
    codings = [coding.strip() for coding in kept.pop("content-encoding", "").split(",")]
    coding = ",".join(coding for coding in codings if coding not in {"", "aws-chunked"})
    if coding:
        kept["content-encoding"] = coding
    meta: dict[str, list[str]] = {}
    for name, value in request.head.headers:
        if name.startswith(META):
            meta.setdefault(name, []).append(value)
    kept |= {name: ",".join(values) for name, values in meta.items()}
    size = sum(len(name) - len(META) + len(value) for name, value in kept.items() if name.startswith(META))
    if size > MAX_META_BYTES:
        message = "Your metadata headers exceed the maximum allowed metadata size"
        raise S3Error("MetadataTooLarge", message, Size=str(size), MaxSizeAllowed=str(MAX_META_BYTES))
    return tuple(kept.items())


def write_conditions(request: S3Request) -> Conditions:
    """What must hold of the object that a write replaces. Raises: S3Error."""
    return Conditions.parse(request.get("if-match"), request.get("if-none-match"))


def demand_current(version: str | None) -> None:
    """Raises: S3Error NoSuchVersion unless the version is the current one, whose name is null."""
    if version not in {None, "", "null"}:
        raise S3Error(
            "NoSuchVersion", "The specified version does not exist; this store keeps the current one."
        )


def refuse_versions(request: S3Request) -> None:
    """Only the current version exists, and it is called null. Raises: S3Error."""
    demand_current(request.query.get("versionId"))
    if "partNumber" in request.query:
        raise S3Error("NotImplemented", "This store does not implement reads by partNumber; use Range.")


def checksum_headers(checksum: Checksum | None) -> Headers:
    """The headers that show a checksum, if there is one."""
    return () if checksum is None else checksum.headers()


def checksum_nodes(checksum: Checksum | None) -> list[Node]:
    """The XML elements that show a checksum, if there is one."""
    if checksum is None:
        return []
    return [(f"Checksum{checksum.algorithm}", checksum.value), ("ChecksumType", checksum.type)]


async def put(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """PutObject."""
    headers = kept_headers(request)
    conditions = write_conditions(request)
    plan = plan_body(request, MAX_PUT_BYTES)
    inline = MemorySink(INLINE + store.blobs.new_id()) if plan.size <= MAX_INLINE_BYTES else None
    if inline is None or not exchange.body_complete:
        _refuse_early(store, request, conditions)
    ingest = Ingest(plan, request, lambda: inline or store.blobs.create(plan.size))
    received = await receive(exchange, ingest, store.pool, in_memory=inline is not None)
    row = ObjectRow(
        request.bucket,
        request.key,
        received.size,
        received.md5,
        0,
        headers,
        received.extents,
        received.checksum,
    )
    data = bytes(inline.data) if inline else b""
    done = await store.commit_body(ingest, lambda tx: put_object(tx, row, conditions, inline=data))
    return Reply(200, (("etag", f'"{done.etag}"'), *checksum_headers(done.checksum)))


def _refuse_early(store: Store, request: S3Request, conditions: Conditions) -> None:
    """Save a hopeless upload its body; the commit decides again."""
    reader = store.index.reader()
    demand_bucket(reader, request.bucket)
    old = find_object(reader, request.bucket, request.key)
    conditions.check(None if old is None else old.etag)


def _read_ask(request: S3Request) -> ReadAsk:
    get = request.get
    return ReadAsk(
        get("if-match"),
        get("if-none-match"),
        get("if-modified-since"),
        get("if-unmodified-since"),
        get("range"),
        get("if-range"),
    )


def _overrides(request: S3Request) -> Headers:
    """The response-* query parameters. Raises: S3Error InvalidArgument."""
    found = [(name, request.query.get(f"response-{name}")) for name in CONTENT_HEADERS]
    for name, value in found:
        if value is not None and not (value.isascii() and value.isprintable()):
            raise S3Error("InvalidArgument", f"response-{name} must be printable ASCII.")
    return tuple((name, value) for name, value in found if value is not None)


def _object_headers(request: S3Request, row: ObjectRow, span: tuple[int, int] | None) -> Headers:
    headers = dict((DEFAULT_TYPE, *row.headers, *_overrides(request)))
    headers |= {
        "etag": f'"{row.etag}"',
        "last-modified": http_date(row.modified_ms),
        "accept-ranges": "bytes",
    }
    if span is not None:
        headers["content-range"] = f"bytes {span[0]}-{span[0] + span[1] - 1}/{row.size}"
    elif request.get("x-amz-checksum-mode") == "ENABLED":
        headers |= dict((row.checksum or whole_checksum(row)).headers())
    return tuple(headers.items())


def whole_checksum(row: ObjectRow) -> Checksum:
    """The CRC64NVME every object has, put together from its extents'."""
    value = 0
    for extent in row.extents:
        value = combine_crc64nvme(value, extent.crc64, extent.length)
    return Checksum(
        "CRC64NVME", encode_digest(value.to_bytes(ALGORITHMS["CRC64NVME"].width_bytes, "big")), FULL_OBJECT
    )


async def head(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """HeadObject."""
    del exchange
    refuse_versions(request)
    row = demand_object(store.index.reader(), request.bucket, request.key)
    ask = _read_ask(request)
    ask.check(row)
    span = ask.span(row)
    length = row.size if span is None else span[1]
    return Reply(200 if span is None else 206, _object_headers(request, row, span), length=length)


async def get(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """GetObject."""
    del exchange
    refuse_versions(request)
    ask = _read_ask(request)
    for _ in range(MAX_LOOKS):
        row = demand_object(store.index.reader(), request.bucket, request.key)
        ask.check(row)
        span = ask.span(row)
        body = await _open_sound(store, row, span or (0, row.size))
        if body is not None:
            return Reply(200 if span is None else 206, _object_headers(request, row, span), body)
    raise S3Error(
        "InternalError", "The object's bytes are set aside as damaged, or change too fast to be read."
    )


async def _open_sound(
    store: Store, row: ObjectRow, span: tuple[int, int]
) -> "OneSlice | ManySlices | bytes | None":
    """The body, none of whose bytes is known to be damaged or was not looked at. Raises: S3Error InternalError."""
    wholes = [extent for extent, _ in _touched(row.extents, *span)]
    try:
        if wholes and not wholes[0].inline:
            await store.sound.demand(wholes)
        return _open(store, row, slices_of(row.extents, *span), wholes)
    except BlobMissing:
        return None
    except Unsound as error:
        await store.set_aside(error.extent, row)
        raise S3Error("InternalError", "The stored bytes fail their checksum and are not served.") from error


def _open(
    store: Store, row: ObjectRow, pieces: list[Extent], wholes: list[Extent]
) -> "OneSlice | ManySlices | bytes | None":
    """The body, held against deletion; None if an overwrite was quicker. `wholes`: what the pieces are of."""
    if not pieces:
        return b""
    if pieces[0].inline:
        data = read_inline(store.index.reader(), wholes[0])
        if data is not None and not is_sound(data, wholes[0]):
            raise Unsound(wholes[0])
        low = pieces[0].offset - wholes[0].offset
        return None if data is None else data[low : low + pieces[0].length]
    if len(pieces) == 1:
        try:
            return OneSlice(store.blobs, pieces[0])
        except BlobMissing:
            return None
    body = ManySlices(store.blobs, pieces)
    now = find_object(store.index.reader(), row.bucket, row.key)
    if (
        now is not None and now.seq == row.seq
    ):  # still there after the pin, so its blobs were not deleted before it
        return body
    body.close()
    return None


def slices_of(extents: tuple[Extent, ...], first: int, length: int) -> list[Extent]:
    """Where bytes first..first+length of an object lie; the CRCs are of the whole extents still."""
    return [piece for _, piece in _touched(extents, first, length)]


def _touched(extents: tuple[Extent, ...], first: int, length: int) -> Iterator[tuple[Extent, Extent]]:
    """(whole extent, the piece of it that lies in first..first+length)."""
    start = 0
    for extent in extents:
        low = max(first, start)
        high = min(first + length, start + extent.length)
        if low < high:
            yield extent, Extent(extent.blob, extent.offset + low - start, high - low, extent.crc64)
        start += extent.length


async def delete(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """DeleteObject."""
    del exchange
    refuse_versions(request)
    conditions = write_conditions(request)
    await store.commit(lambda tx: delete_object(tx, request.bucket, request.key, conditions))
    return Reply(204)


async def copy(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """CopyObject."""
    del exchange
    source = _copy_source(request)
    directive = request.get("x-amz-metadata-directive") or "COPY"
    if directive not in {"COPY", "REPLACE"}:
        raise S3Error("InvalidArgument", "x-amz-metadata-directive is COPY or REPLACE.")
    headers = kept_headers(request) if directive == "REPLACE" else None
    target = CopyTarget(request.bucket, request.key, headers, write_conditions(request))
    row = await store.commit(lambda tx: copy_object(tx, source, target))
    nodes: list[Node] = [("LastModified", iso_date(row.modified_ms)), ("ETag", f'"{row.etag}"')]
    return Reply(200, XML, write("CopyObjectResult", nodes + checksum_nodes(row.checksum)))


def _copy_source(request: S3Request) -> CopySource:
    """What to copy, with the right to read it checked. Raises: S3Error."""
    raw, _, version = (request.get("x-amz-copy-source") or "").partition("?versionId=")
    demand_current(version)
    raw_bucket, _, raw_key = unquote_to_bytes(raw).removeprefix(b"/").partition(b"/")
    bucket, key = parse_bucket(raw_bucket.decode("utf-8", "replace")), parse_key(raw_key)
    request.identity.demand(Right.READ, bucket, key)

    def get(name: str) -> str | None:
        return request.get(f"x-amz-copy-source-if-{name}")

    return CopySource(
        bucket,
        key,
        Conditions(parse_etags(get("match"))),
        parse_etags(get("none-match")),
        parse_date_ms(get("modified-since")),
        parse_date_ms(get("unmodified-since")),
    )


async def delete_many(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """DeleteObjects: one transaction, an answer for each key."""
    data = await read_document(exchange, request, MAX_DOCUMENT_BYTES, store.pool)
    root = parse(data, "Delete")
    asked = root.all("Object")
    if not 0 < len(asked) <= MAX_DELETES:
        raise S3Error("MalformedXML", f"Delete takes 1 to {MAX_DELETES} objects.")
    quiet = (root.value("Quiet") or "").lower() == "true"
    nodes = await store.commit(lambda tx: [_delete_one(tx, request, item) for item in asked])
    return Reply(200, XML, write("DeleteResult", [node for node in nodes if not quiet or node[0] == "Error"]))


def _delete_one(tx: Transaction, request: S3Request, item: Element) -> Node:
    """Delete one named key; its refusal is its own. Nothing was changed when one is raised."""
    name = item.need("Key")
    try:
        demand_current(item.value("VersionId"))
        key = parse_key(name.encode())
        request.identity.demand(Right.WRITE, request.bucket, key)
        delete_object(tx, request.bucket, key, Conditions(parse_etags(item.value("ETag"))))
    except S3Error as error:
        if error.code == "NoSuchBucket":
            raise
        return ("Error", [("Key", name), ("Code", error.code), ("Message", error.message)])
    return ("Deleted", [("Key", name)])
