"""Operations on one object, and DeleteObjects."""

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from urllib.parse import unquote_to_bytes

from storage.auth.acl import Acl, acl_from_headers, asks_acl, private
from storage.auth.key import Right, parse_bucket, parse_key
from storage.authority import demand_read
from storage.checksum import (
    ALGORITHMS,
    FULL_OBJECT,
    WHOLE_SUM,
    Checksum,
    combine_crc64nvme,
    encode_digest,
)
from storage.disk.blobs import BlobMissing
from storage.disk.sound import Unsound, is_sound
from storage.disk.spare import ROWS_LEAVE_BYTES, demand_room
from storage.fault import S3Error
from storage.http.conditions import ReadAsk, http_date, iso_date, parse_date_ms
from storage.http.document import Node, write
from storage.http.handover import ASK, OpenFiles
from storage.http.ingest import (
    MAX_PUT_BYTES,
    BodyPlan,
    Ingest,
    MemorySink,
    Source,
    plan_body,
    receive,
)
from storage.http.reply import XML, Body, ManySlices, OneSlice, Reply
from storage.http.request import S3Request
from storage.index.changes import PUT
from storage.index.copies import CopySource, CopyTarget, copy_object
from storage.index.objects import put_object
from storage.index.reads import (
    demand_bucket,
    demand_object,
    demand_same,
    find_object,
    no_such_bucket,
    read_inline,
)
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

_How = Callable[[Store, list[Extent], int], Body]
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


def acl_asked(store: Store, request: S3Request) -> Acl | None:
    """The owner and list of what a request writes; None for the bucket's owner and nobody else.

    A key without a user, and who signed nothing, writes for the bucket's owner. A write grant is not one to open what
    is written to others: that takes an admin or an own grant; who signed nothing has none to overstep. Raises: S3Error.
    """
    identity, user = request.identity, request.identity.user
    if not user and not asks_acl(request.head.headers):
        return None
    access = store.accesses.find(request.bucket)
    if access is None:
        raise no_such_bucket(request.bucket)
    owner = user or access.owner
    knows = store.verifier.keys.knows
    acl = acl_from_headers(request.head.headers, owner, access.owner, knows) or private(owner)
    access.demand_unblocked(acl)
    free = identity.anonymous or identity.may_own(request.bucket)
    if acl.opens(owner, access.owner) and not free:
        identity.demand(Right.ADMIN, request.bucket, request.key)
    return acl


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


def demand_judged(db: sqlite3.Connection, request: S3Request) -> ObjectRow:
    """The object that a request is about, if it is the one that it was let through for. Raises: S3Error."""
    row = demand_object(db, request.bucket, request.key, version_asked(request))
    demand_same(row, request.judged)
    return row


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
    acl = acl_asked(store, request)
    conditions = write_conditions(request)
    inline = None
    if plan.size <= MAX_INLINE_BYTES:
        demand_room(store.blobs.root, plan.size, ROWS_LEAVE_BYTES)
        inline = MemorySink(INLINE + store.blobs.new_id())
    known_bytes = plan.size if plan.least is None else None
    ingest = Ingest(plan, request, lambda: inline or store.blobs.create(known_bytes), store.beside)
    received = await receive(source, ingest, store.pool, in_memory=inline is not None)
    row = ObjectRow(
        request.bucket,
        request.key,
        received.size,
        received.etag,
        0,
        headers + parse_header(request.get(TAGGING)),
        received.extents,
        received.checksum,
        acl=acl,
    )
    data = bytes(inline.data) if inline else b""
    return await store.commit_body(ingest, lambda tx: put_object(tx, row, conditions, inline=data, name=name))


def _refuse_early(store: Store, request: S3Request, conditions: Conditions) -> None:
    """Save a hopeless upload its body; the commit decides again."""
    reader = store.index.reader()
    demand_bucket(reader, request.bucket)
    old = find_object(reader, request.bucket, request.key)
    conditions.check(None if old is None else old.etag)


def read_ask(request: S3Request) -> ReadAsk:
    """What a read asks of the object."""
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


def object_headers(store: Store, request: S3Request, row: ObjectRow, span: tuple[int, int] | None) -> Headers:
    """The headers of an answer with these bytes of an object. Raises: S3Error InvalidArgument."""
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
    if request.get(WHOLE_SUM) is not None and _may_be_kept(store, row):
        headers[WHOLE_SUM] = whole_checksum(row).value
    return tuple(headers.items())


def _may_be_kept(store: Store, row: ObjectRow) -> bool:
    """Whether another region may answer reads of it by a key's grants alone: a policy can only be judged here."""
    access = store.accesses.find(row.bucket)
    return (access is None or access.policy is None) and bool(row.extents or not row.size)


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
    row = demand_judged(store.index.reader(), request)
    ask = read_ask(request)
    ask.check(row)
    span = span_of(request, ask, row)
    length = row.size if span is None else span[1]
    return Reply(200 if span is None else 206, object_headers(store, request, row, span), length=length)


def span_of(request: S3Request, ask: ReadAsk, row: ObjectRow) -> tuple[int, int] | None:
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
    ask = read_ask(request)
    how = _as_files if _wants_files(exchange, request) else _as_bytes
    for _ in range(MAX_LOOKS):
        row = demand_judged(store.index.reader(), request)
        ask.check(row)
        span = span_of(request, ask, row)
        body = await _open_sound(store, row, span or (0, row.size), how)
        if body is not None:
            return Reply(200 if span is None else 206, object_headers(store, request, row, span), body)
    raise S3Error(
        "InternalError", "The object's bytes are set aside as damaged, or change too fast to be read."
    )


def _wants_files(exchange: Exchange, request: S3Request) -> bool:
    """True if descriptors are asked for. Raises: S3Error InvalidRequest where none can be sent."""
    wanted = request.get(ASK)
    if wanted is None:
        return False
    if wanted != "1" or not exchange.carries_descriptors:
        raise S3Error("InvalidRequest", f"{ASK}: 1 is understood on the store's Unix socket only.")
    return True


async def _open_sound(store: Store, row: ObjectRow, span: tuple[int, int], how: _How) -> Body | bytes | None:
    """The body, none of whose bytes is known to be damaged or was not looked at. Raises: S3Error InternalError."""
    wholes = [extent for extent, _ in _touched(row.extents, *span)]
    try:
        if wholes and not wholes[0].inline:
            await store.sound.demand(wholes)
        return _open(store, row, span, wholes, how)
    except BlobMissing:
        return None
    except Unsound as error:
        await store.set_aside(error.extent, row)
        raise S3Error("InternalError", "The stored bytes fail their checksum and are not served.") from error


def _open(
    store: Store, row: ObjectRow, span: tuple[int, int], wholes: list[Extent], how: _How
) -> Body | bytes | None:
    """The body, held against deletion; None if an overwrite was quicker. `wholes`: the extents that are touched."""
    pieces = slices_of(row.extents, *span)
    if not pieces:
        return b""
    if pieces[0].inline:
        data = read_inline(store.index.reader(), wholes[0])
        if data is not None and not is_sound(data, wholes[0]):
            raise Unsound(wholes[0])
        low = pieces[0].offset - wholes[0].offset
        return None if data is None else data[low : low + pieces[0].length]
    body = how(store, pieces, span[0])
    if isinstance(body, ManySlices) and not _is_there(store, row):
        body.close()
        return None
    return body


def _is_there(store: Store, row: ObjectRow) -> bool:
    """True if the version is there still: its blobs, pinned before this look, were not deleted before the pin."""
    now = find_version(store.index.reader(), row.bucket, row.key, row.version)
    return now is not None and (now.seq, now.extents) == (row.seq, row.extents)


def _as_bytes(store: Store, pieces: list[Extent], first: int) -> Body:
    """Raises: BlobMissing, OSError."""
    del first
    return OneSlice(store.blobs, pieces[0]) if len(pieces) == 1 else ManySlices(store.blobs, pieces)


def _as_files(store: Store, pieces: list[Extent], first: int) -> Body:
    """All are opened here, so none can go any more. Raises: S3Error, BlobMissing, OSError."""
    return OpenFiles(store.blobs, store.leases, pieces, first)


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


async def copy(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """CopyObject."""
    del exchange
    source = copy_source(store, request)
    directive = request.get("x-amz-metadata-directive") or "COPY"
    if directive not in {"COPY", "REPLACE"}:
        raise S3Error("InvalidArgument", "x-amz-metadata-directive is COPY or REPLACE.")
    headers = kept_headers(request) if directive == "REPLACE" else None
    new_tags = request.get("x-amz-tagging-directive") == "REPLACE"
    tags = parse_header(request.get(TAGGING)) if new_tags else None
    acl = acl_asked(store, request)
    target = CopyTarget(request.bucket, request.key, headers, tags, write_conditions(request), acl)
    row = await store.commit(lambda tx: copy_object(tx, source, target))
    nodes: list[Node] = [("LastModified", iso_date(row.modified_ms)), ("ETag", f'"{row.etag}"')]
    shown = version_headers(store, row)
    if source.version is not None:
        shown += (("x-amz-copy-source-version-id", source.version),)
    return Reply(200, XML + shown, write("CopyObjectResult", nodes + checksum_nodes(row.checksum)))


def copy_source(store: Store, request: S3Request) -> CopySource:
    """What to copy, with the right to read it checked. Raises: S3Error."""
    raw, _, version = (request.get("x-amz-copy-source") or "").partition("?versionId=")
    raw_bucket, _, raw_key = unquote_to_bytes(raw).removeprefix(b"/").partition(b"/")
    if not raw_key:
        raise S3Error("InvalidArgument", "Copy Source must mention the source bucket and key: bucket/key")
    bucket, key = parse_bucket(raw_bucket.decode("utf-8", "replace")), parse_key(raw_key)
    asked = parse_version(unquote_to_bytes(version).decode("utf-8", "replace") or None)
    judged = demand_read(store, request, bucket, key, asked)

    def get(name: str) -> str | None:
        return request.get(f"x-amz-copy-source-if-{name}")

    return CopySource(
        bucket,
        key,
        asked,
        Conditions(parse_etags(get("match"))),
        parse_etags(get("none-match")),
        parse_date_ms(get("modified-since")),
        parse_date_ms(get("unmodified-since")),
        judged,
    )
