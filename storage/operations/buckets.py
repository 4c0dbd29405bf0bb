"""Operations on the service and on buckets: names, places and listings."""

from collections.abc import Callable
from urllib.parse import quote

from storage.auth.acl import acl_from_headers, unpack_acl
from storage.fault import S3Error
from storage.http.conditions import iso_date
from storage.http.document import MAX_DOCUMENT_BYTES, Node, parse, write
from storage.http.receive import read_document
from storage.http.reply import XML, Reply
from storage.http.request import S3Request
from storage.index import listing
from storage.index.buckets import create_bucket, delete_bucket
from storage.index.columns import unpack_checksum
from storage.index.listing import (
    MAX_PAGE,
    ObjectLine,
    Page,
    PageAsk,
    UploadLine,
    page_of,
    scan_objects,
    scan_uploads,
)
from storage.index.reads import demand_bucket
from storage.store import Store
from wire.serve import Exchange

NO_REGION = "us-east-1"  # S3 writes this one as an empty LocationConstraint
MAX_BUCKETS = 10_000  # S3's limit for one page


def owner_nodes(owner: str) -> list[Node]:
    """How an owner shows: its name is its id."""
    return [("ID", owner), ("DisplayName", owner)]


def owner_of(acl: str | None, bucket_owner: str) -> str:
    """Who owns the object of that list as it is kept."""
    kept = unpack_acl(acl)
    return bucket_owner if kept is None else kept.owner


async def list_buckets(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """ListBuckets: those the caller has any grant on, and its user's own."""
    del exchange
    identity, query = request.identity, request.query
    after, most = query.get("continuation-token"), count_asked(request, "max-buckets", MAX_BUCKETS)
    last = "" if after is None else listing.decode_token(after).decode("utf-8", "replace")
    rows = store.index.reader().execute(
        "SELECT name, created_ms, owner FROM buckets WHERE name > ? ORDER BY name", (last,)
    )
    seen = [
        (name, created_ms)
        for name, created_ms, owner in rows
        if name.startswith(query.get("prefix", ""))
        and (identity.sees(name) or (owner == identity.user and identity.may_own(name)))
    ]
    shown = seen[:most]
    buckets: list[Node] = [
        ("Bucket", [("Name", name), ("CreationDate", iso_date(created_ms))]) for name, created_ms in shown
    ]
    nodes: list[Node] = [("Owner", owner_nodes(identity.owner)), ("Buckets", buckets)]
    if len(seen) > len(shown) and shown:
        nodes.append(("ContinuationToken", listing.encode_token(shown[-1][0].encode())))
    return Reply(200, XML, write("ListAllMyBucketsResult", nodes))


async def create(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """CreateBucket. A location constraint is read and not obeyed: a bucket's home is this store.

    To make one's own bucket again is no error where S3 has none either.
    """
    data = await read_document(exchange, request, MAX_DOCUMENT_BYTES, store.pool)
    if data:
        parse(data, "CreateBucketConfiguration")
    owner = request.identity.owner
    acl = acl_from_headers(request.head.headers, owner, owner, store.verifier.keys.knows)
    try:
        await store.commit(lambda tx: create_bucket(tx, request.bucket, owner, acl))
    except S3Error as error:
        if error.code != "BucketAlreadyOwnedByYou" or store.region != NO_REGION:
            raise
    return Reply(200, (("location", f"/{request.bucket}"),))


async def head(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """HeadBucket."""
    del exchange
    demand_bucket(store.index.reader(), request.bucket)
    return Reply(200, (("x-amz-bucket-region", store.region),))


async def delete(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """DeleteBucket."""
    del exchange
    await store.commit(lambda tx: delete_bucket(tx, request.bucket))
    return Reply(204)


async def location(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """GetBucketLocation."""
    del exchange
    demand_bucket(store.index.reader(), request.bucket)
    text = "" if store.region == NO_REGION else store.region
    return Reply(200, XML, write("LocationConstraint", [], text=text))


def count_asked(request: S3Request, name: str, most: int = MAX_PAGE) -> int:
    """A max-... parameter, cut to what S3 gives at most. Raises: S3Error InvalidArgument."""
    raw = request.query.get(name)
    if not raw:
        return most
    if not (raw.isascii() and raw.isdigit() and len(raw) < 11):
        raise S3Error(
            "InvalidArgument", f"Provided {name} not an integer or within integer range", ArgumentName=name
        )
    return min(int(raw), most)


def encoder(request: S3Request) -> Callable[[str], str]:
    """How keys are written: as they are, or percent-encoded. Raises: S3Error InvalidArgument."""
    kind = request.query.get("encoding-type")
    if kind not in {None, "", "url"}:
        raise S3Error(
            "InvalidArgument", "Invalid Encoding Method specified in Request", ArgumentName="encoding-type"
        )
    return (lambda text: quote(text, safe="/-._~")) if kind == "url" else (lambda text: text)


def echoes(request: S3Request, encode: Callable[[str], str], *names: tuple[str, str]) -> list[Node]:
    """The (parameter, element) pairs that were sent, given back; an empty delimiter is none."""
    encoded = {"prefix", "delimiter", "marker", "start-after", "key-marker"}
    return [
        (element, encode(request.query[name]) if name in encoded else request.query[name])
        for name, element in names
        if name in request.query and (request.query[name] or name != "delimiter")
    ]


async def list_v2(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """ListObjectsV2."""
    del exchange
    if request.query["list-type"] != "2":
        raise S3Error("InvalidArgument", "list-type is 2.", ArgumentName="list-type")
    token = request.query.get("continuation-token")
    start_after = request.query.get("start-after", "").encode()
    after = start_after if token is None else listing.decode_token(token)
    encode = encoder(request)
    owner, page = await _page(store, request, after)
    names = (("continuation-token", "ContinuationToken"), ("start-after", "StartAfter"))
    nodes: list[Node] = [
        ("KeyCount", str(len(page.rows) + len(page.prefixes))),
        *echoes(request, encode, *names),
    ]
    if page.truncated:
        nodes.append(("NextContinuationToken", listing.encode_token(page.last)))
    shown = owner if request.query.get("fetch-owner") == "true" else None
    return _list_reply(request, encode, page, nodes, shown)


async def list_v1(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """ListObjects, the first version, which older tools still send."""
    del exchange
    encode = encoder(request)
    owner, page = await _page(store, request, request.query.get("marker", "").encode())
    nodes: list[Node] = [("Marker", encode(request.query.get("marker", "")))]
    if page.truncated and request.query.get("delimiter"):
        nodes.append(("NextMarker", encode(page.last.decode())))
    return _list_reply(request, encode, page, nodes, owner)


async def _page(store: Store, request: S3Request, after: bytes) -> tuple[str, Page[ObjectLine]]:
    """Whose bucket it is, and the page."""
    query = request.query
    ask = PageAsk(
        query.get("prefix", "").encode(),
        query.get("delimiter", "").encode(),
        after,
        count_asked(request, "max-keys"),
    )

    def read() -> tuple[str, Page[ObjectLine]]:
        reader = store.index.reader()
        owner = demand_bucket(reader, request.bucket)
        return owner, page_of(scan_objects(reader, request.bucket), ask)

    return await store.in_thread(read)


def _list_reply(
    request: S3Request,
    encode: Callable[[str], str],
    page: Page[ObjectLine],
    nodes: list[Node],
    owner: str | None,
) -> Reply:
    """`owner`: whose bucket it is, if owners are to be shown."""
    names = (("delimiter", "Delimiter"), ("encoding-type", "EncodingType"))
    head: list[Node] = [
        ("Name", request.bucket),
        ("Prefix", encode(request.query.get("prefix", ""))),
        ("MaxKeys", str(count_asked(request, "max-keys"))),
        ("IsTruncated", "true" if page.truncated else "false"),
        *echoes(request, encode, *names),
        *nodes,
    ]
    contents: list[Node] = [("Contents", _object_nodes(line, encode, owner)) for line in page.rows]
    return Reply(200, XML, write("ListBucketResult", head + contents + prefix_nodes(page.prefixes, encode)))


def _object_nodes(line: ObjectLine, encode: Callable[[str], str], owner: str | None) -> list[Node]:
    nodes: list[Node] = [
        ("Key", encode(line.raw_key.decode())),
        ("LastModified", iso_date(line.modified_ms)),
        ("ETag", f'"{line.etag}"'),
        ("Size", str(line.size)),
        ("StorageClass", "STANDARD"),
    ]
    checksum = unpack_checksum(line.checksum)
    if checksum is not None:
        nodes += [("ChecksumAlgorithm", checksum.algorithm), ("ChecksumType", checksum.type)]
    return nodes if owner is None else [*nodes, ("Owner", owner_nodes(owner_of(line.acl, owner)))]


def prefix_nodes(prefixes: tuple[bytes, ...], encode: Callable[[str], str]) -> list[Node]:
    """CommonPrefixes elements; a character that a delimiter cut in two shows as U+FFFD."""
    return [
        ("CommonPrefixes", [("Prefix", encode(prefix.decode("utf-8", "replace")))]) for prefix in prefixes
    ]


async def list_uploads(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """ListMultipartUploads."""
    del exchange
    query = request.query
    encode = encoder(request)
    marker, upload_marker = query.get("key-marker", "").encode(), query.get("upload-id-marker", "")
    most = count_asked(request, "max-uploads")
    resumes = bool(marker and upload_marker)
    ask = PageAsk(
        query.get("prefix", "").encode(), query.get("delimiter", "").encode(), marker, most, resumes
    )

    def read() -> tuple[str, Page[UploadLine]]:
        reader = store.index.reader()
        owner = demand_bucket(reader, request.bucket)
        return owner, page_of(
            scan_uploads(reader, request.bucket, (marker if resumes else b"", upload_marker)), ask
        )

    owner, page = await store.in_thread(read)
    names = (("prefix", "Prefix"), ("delimiter", "Delimiter"), ("encoding-type", "EncodingType"))
    head: list[Node] = [
        ("Bucket", request.bucket),
        ("KeyMarker", encode(query.get("key-marker", ""))),
        ("UploadIdMarker", upload_marker),
        ("MaxUploads", str(most)),
        ("IsTruncated", "true" if page.truncated else "false"),
        *echoes(request, encode, *names),
    ]
    if page.truncated:
        head.append(("NextKeyMarker", encode(page.last.decode())))
        head.append(("NextUploadIdMarker", page.rows[-1].upload if page.rows else ""))
    uploads: list[Node] = [("Upload", _upload_nodes(line, encode, owner)) for line in page.rows]
    return Reply(
        200, XML, write("ListMultipartUploadsResult", head + uploads + prefix_nodes(page.prefixes, encode))
    )


def _upload_nodes(line: UploadLine, encode: Callable[[str], str], bucket_owner: str) -> list[Node]:
    owner = owner_nodes(owner_of(line.acl, bucket_owner))
    return [
        ("Key", encode(line.raw_key.decode())),
        ("UploadId", line.upload),
        ("Initiator", owner),
        ("Owner", owner),
        ("StorageClass", "STANDARD"),
        ("Initiated", iso_date(line.created_ms)),
    ]
