"""Operations on one object, and DeleteObjects."""

from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import unquote_to_bytes

from storage.auth.key import ObjectKey, Right, parse_bucket, parse_key
from storage.checksum import ALGORITHMS, FULL_OBJECT, Checksum, combine_crc64nvme, encode_digest
from storage.disk.blobs import BlobMissing
from storage.disk.sound import Unsound, is_sound
from storage.fault import S3Error
from storage.http.conditions import ReadAsk, http_date, iso_date, parse_date_ms
from storage.http.document import MAX_DOCUMENT_BYTES, Element, Node, parse, write
from storage.http.ingest import (
    MAX_PUT_BYTES,
    BodyPlan,
    Ingest,
    MemorySink,
    Source,
    plan_body,
    read_document,
    receive,
)
from storage.http.reply import XML, ManySlices, OneSlice, Reply
from storage.http.request import S3Request
from storage.index.commits import (
    PUT,
    CopySource,
    CopyTarget,
    Deleted,
    copy_object,
    delete_object,
    delete_version,
    demand_bucket,
    demand_object,
    find_object,
    put_object,
    read_inline,
)
from storage.index.database import Transaction
from storage.index.rows import INLINE, NULL_VERSION, Conditions, Extent, Headers, ObjectRow, parse_etags
from storage.index.settings import versioning_of
from storage.index.tags import TAGGING, parse_header, split_tags, tags_of
from storage.index.versions import find_version
from storage.operations.lifecycle import expiry_headers
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
    coding = ", ".join(coding for coding in codings if coding not in {"", "aws-chunked"})
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


def version_asked(request: S3Request) -> str | None:
    """The version that is meant, None for the one that is read. Raises: S3Error InvalidArgument."""
    return parse_version(request.query.get("versionId"))


def parse_version(raw: str | None) -> str | None:
    """A version id from outside. Raises: S3Error InvalidArgument."""
    if raw is not None and not (raw and raw.isascii() and raw.isprintable()):
        raise S3Error("InvalidArgument", "Invalid version id specified", ArgumentName="versionId")
    return raw


def version_headers(store: Store, row: ObjectRow) -> Headers:
    """The header that names the version, in a bucket that has or had versioning."""
    if row.version == NULL_VERSION and not versioning_of(store.index.reader(), row.bucket):
        return ()
    return (("x-amz-version-id", row.version),)


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
    plan = plan_body(request, MAX_PUT_BYTES)
    if plan.size > MAX_INLINE_BYTES or not exchange.body_complete:
        _refuse_early(store, request, write_conditions(request))
    done = await put_body(store, exchange, request, plan)
    shown = (("etag", f'"{done.etag}"'), *version_headers(store, done), *checksum_headers(done.checksum))
    return Reply(200, shown + expiry_headers(store.index.reader(), done))


async def put_body(
    store: Store, source: Source, request: S3Request, plan: BodyPlan, name: str = PUT
) -> ObjectRow:
    """Store the body that `source` gives as the object that `request` names, with its headers. Raises: S3Error.

    `name`: of the event.
    """
    headers = kept_headers(request)
    conditions = write_conditions(request)
    inline = MemorySink(INLINE + store.blobs.new_id()) if plan.size <= MAX_INLINE_BYTES else None
    known_bytes = plan.size if plan.least is None else None
    ingest = Ingest(plan, request, lambda: inline or store.blobs.create(known_bytes))
    received = await receive(source, ingest, store.pool, in_memory=inline is not None)
    row = ObjectRow(
        request.bucket,
        request.key,
        received.size,
        received.md5,
        0,
        headers + parse_header(request.get(TAGGING)),
        received.extents,
        received.checksum,
    )
    data = bytes(inline.data) if inline else b""
    return await store.commit_body(ingest, lambda tx: put_object(tx, row, conditions, inline=data, name=name))


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


def _object_headers(
    store: Store, request: S3Request, row: ObjectRow, span: tuple[int, int] | None
) -> Headers:
    kept, _ = split_tags(row.headers)
    expiry = expiry_headers(store.index.reader(), row) if "versionId" not in request.query else ()
    headers = dict((DEFAULT_TYPE, *kept, *version_headers(store, row), *expiry, *_overrides(request)))
    num_tags = len(tags_of(row.headers))
    if num_tags:
        headers["x-amz-tagging-count"] = str(num_tags)
    if "partNumber" in request.query and row.parts:
        headers["x-amz-mp-parts-count"] = str(len(row.parts))
    headers |= {
        "etag": f'"{row.etag}"',
        "last-modified": http_date(row.modified_ms),
        "accept-ranges": "bytes",
    }
    if span is not None:
        headers["content-range"] = f"bytes {span[0]}-{span[0] + span[1] - 1}/{row.size}"
    if request.get("x-amz-checksum-mode") == "ENABLED":
        headers |= dict(_checksum_headers(request, row, span))
    return tuple(headers.items())


def _checksum_headers(request: S3Request, row: ObjectRow, span: tuple[int, int] | None) -> Headers:
    """The checksum of exactly the bytes given: of the whole, of a part that was read by its number; of no range."""
    if span is None:
        return (row.checksum or whole_checksum(row)).headers()
    if "partNumber" not in request.query or row.checksum is None:
        return ()
    values = [value for _, value in row.parts] or [row.checksum.value]
    value = values[int(request.query["partNumber"]) - 1]
    return () if value is None else replace(row.checksum, value=value).headers()


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
    row = demand_object(store.index.reader(), request.bucket, request.key, version_asked(request))
    ask = _read_ask(request)
    ask.check(row)
    span = _span(request, ask, row)
    length = row.size if span is None else span[1]
    return Reply(200 if span is None else 206, _object_headers(store, request, row, span), length=length)


def _span(request: S3Request, ask: ReadAsk, row: ObjectRow) -> tuple[int, int] | None:
    """(first byte, length) of a range or a part; None for the whole. Raises: S3Error."""
    raw = request.query.get("partNumber")
    if raw is None:
        return ask.span(row)
    if ask.range is not None:
        raise S3Error("InvalidRequest", "Cannot specify both Range header and partNumber query parameter")
    number = int(raw) if raw.isascii() and raw.isdigit() and len(raw) < 6 else 0
    sizes = [size for size, _ in row.parts] or [row.size]
    if not 1 <= number <= len(sizes):
        raise S3Error("InvalidPart", "The requested partnumber is not satisfiable", PartNumber=raw)
    return sum(sizes[: number - 1]), sizes[number - 1]


async def get(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """GetObject."""
    del exchange
    version = version_asked(request)
    ask = _read_ask(request)
    for _ in range(MAX_LOOKS):
        row = demand_object(store.index.reader(), request.bucket, request.key, version)
        ask.check(row)
        span = _span(request, ask, row)
        body = await _open_sound(store, row, span or (0, row.size))
        if body is not None:
            return Reply(200 if span is None else 206, _object_headers(store, request, row, span), body)
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
    now = find_version(store.index.reader(), row.bucket, row.key, row.version)
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
    version = version_asked(request)
    conditions = write_conditions(request)
    done = await store.commit(lambda tx: _delete(tx, request, request.key, version, conditions))
    shown = () if done.version is None else (("x-amz-version-id", done.version),)
    return Reply(204, (*shown, ("x-amz-delete-marker", "true")) if done.marker else shown)


def _delete(
    tx: Transaction, request: S3Request, key: ObjectKey, version: str | None, conditions: Conditions
) -> Deleted:
    if version is None:
        return delete_object(tx, request.bucket, key, conditions)
    return delete_version(tx, request.bucket, key, version, conditions)


async def copy(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """CopyObject."""
    del exchange
    source = copy_source(request)
    directive = request.get("x-amz-metadata-directive") or "COPY"
    if directive not in {"COPY", "REPLACE"}:
        raise S3Error("InvalidArgument", "x-amz-metadata-directive is COPY or REPLACE.")
    headers = kept_headers(request) if directive == "REPLACE" else None
    new_tags = request.get("x-amz-tagging-directive") == "REPLACE"
    tags = parse_header(request.get(TAGGING)) if new_tags else None
    target = CopyTarget(request.bucket, request.key, headers, tags, write_conditions(request))
    row = await store.commit(lambda tx: copy_object(tx, source, target))
    nodes: list[Node] = [("LastModified", iso_date(row.modified_ms)), ("ETag", f'"{row.etag}"')]
    shown = version_headers(store, row)
    if source.version is not None:
        shown += (("x-amz-copy-source-version-id", source.version),)
    return Reply(200, XML + shown, write("CopyObjectResult", nodes + checksum_nodes(row.checksum)))


def copy_source(request: S3Request) -> CopySource:
    """What to copy, with the right to read it checked. Raises: S3Error."""
    raw, _, version = (request.get("x-amz-copy-source") or "").partition("?versionId=")
    raw_bucket, _, raw_key = unquote_to_bytes(raw).removeprefix(b"/").partition(b"/")
    bucket, key = parse_bucket(raw_bucket.decode("utf-8", "replace")), parse_key(raw_key)
    request.identity.demand(Right.READ, bucket, key)

    def get(name: str) -> str | None:
        return request.get(f"x-amz-copy-source-if-{name}")

    return CopySource(
        bucket,
        key,
        parse_version(unquote_to_bytes(version).decode("utf-8", "replace") or None),
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
    name = item.exact("Key")
    try:
        version = parse_version(item.value("VersionId") or None)
        key = parse_key(name.encode())
        request.identity.demand(Right.WRITE, request.bucket, key)
        done = _delete(tx, request, key, version, Conditions(parse_etags(item.value("ETag"))))
    except S3Error as error:
        if error.code == "NoSuchBucket":
            raise
        return ("Error", [("Key", name), ("Code", error.code), ("Message", error.message)])
    return ("Deleted", [("Key", name), *_deleted_nodes(version, done)])


def _deleted_nodes(version: str | None, done: Deleted) -> list[Node]:
    """Which version went, and which marker came or went."""
    nodes: list[Node] = [] if version is None else [("VersionId", version)]
    if done.marker and done.version is not None:
        nodes += [("DeleteMarker", "true"), ("DeleteMarkerVersionId", done.version)]
    return nodes
