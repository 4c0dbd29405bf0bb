"""PutObject and CopyObject."""

from urllib.parse import unquote_to_bytes

from storage.auth.key import parse_bucket, parse_key
from storage.authority import demand_read
from storage.disk.spare import ROWS_LEAVE_BYTES, demand_room
from storage.fault import S3Error
from storage.http.bodyplan import MAX_PUT_BYTES, BodyPlan, plan_body
from storage.http.conditions import iso_date, parse_date_ms
from storage.http.document import Node, write
from storage.http.ingest import Ingest
from storage.http.receive import receive
from storage.http.reply import XML, Reply
from storage.http.request import S3Request
from storage.http.sinks import MemorySink, Source
from storage.index.changes import PUT
from storage.index.conditions import Conditions, parse_etags
from storage.index.copies import CopySource, CopyTarget, copy_object
from storage.index.objects import put_object
from storage.index.reads import demand_bucket, find_object
from storage.index.rows import INLINE, ObjectRow
from storage.index.tags import TAGGING, parse_header
from storage.operations.asked import acl_asked, kept_headers, parse_version, write_conditions
from storage.operations.lifecycle import expiry_headers
from storage.operations.shown import checksum_headers, checksum_nodes, version_headers
from storage.store import Store
from wire.serve import Exchange

MAX_INLINE_BYTES = 16 * 1024  # pointers, configs, manifests: a few pages of the index


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
