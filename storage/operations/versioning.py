"""Operations on versioning: its state on a bucket, and the list of all versions."""

import heapq
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

from storage.auth.key import ObjectKey
from storage.fault import S3Error
from storage.http.conditions import iso_date
from storage.http.document import MAX_DOCUMENT_BYTES, Node, parse, write
from storage.http.receive import read_document
from storage.http.reply import XML, Reply
from storage.http.request import S3Request
from storage.index.database import Transaction
from storage.index.listing import Page, PageAsk, page_of
from storage.index.reads import demand_bucket
from storage.index.settings import VERSIONING, put_setting, versioning_of
from storage.index.versions import ENABLED, find_version, name_of, seq_of
from storage.operations.buckets import count_asked, echoes, encoder, owner_nodes, owner_of, prefix_nodes
from storage.store import Store
from wire.serve import Exchange

STATES = frozenset({ENABLED, "Suspended"})


async def get(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """GetBucketVersioning: no Status if it was never set."""
    del exchange
    demand_bucket(store.index.reader(), request.bucket)
    state = versioning_of(store.index.reader(), request.bucket)
    return Reply(200, XML, write("VersioningConfiguration", [("Status", state)] if state else []))


async def put(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """PutBucketVersioning. MFA delete is not implemented."""
    root = parse(
        await read_document(exchange, request, MAX_DOCUMENT_BYTES, store.pool), "VersioningConfiguration"
    )
    state = root.need("Status")
    if state not in STATES:
        raise S3Error("MalformedXML", "Status is Enabled or Suspended.")
    if root.value("MfaDelete") == "Enabled":
        raise S3Error("NotImplemented", "This store does not implement: MFA delete.")

    def apply(tx: Transaction) -> None:
        demand_bucket(tx.db, request.bucket)
        put_setting(tx.db, request.bucket, VERSIONING, state)

    await store.commit(apply)
    return Reply(200)


@dataclass(frozen=True, slots=True)
class VersionLine:
    """What a listing shows of a version; one without an ETag is a delete marker."""

    raw_key: bytes
    seq: int
    version: str
    etag: str
    size: int
    modified_ms: int
    latest: bool
    acl: str | None


_LINE = "SELECT key, seq, version, etag, size, modified_ms, acl FROM"


def scan_versions(
    db: sqlite3.Connection, bucket: str, resume: tuple[bytes, int]
) -> "Callable[[bytes, bytes | None], Iterator[VersionLine]]":
    """A scan over all versions, of one key the newest first; of `resume[0]` only those before change `resume[1]`."""

    def scan(first: bytes, end: bytes | None) -> Iterator[VersionLine]:
        where, args = "bucket = ? AND key >= ?", (bucket, first)
        current = f"{_LINE} objects WHERE {where} ORDER BY key"
        older = f"{_LINE} versions WHERE {where} ORDER BY key, seq DESC"
        previous = None
        with closing(db.execute(current, args)) as left, closing(db.execute(older, args)) as right:
            for row in heapq.merge(left, right, key=lambda row: (row[0], -row[1])):
                if end is not None and row[0] >= end:
                    return
                latest, previous = row[0] != previous, row[0]
                if row[0] != resume[0] or row[1] < resume[1]:
                    key, seq, version, etag, size, modified_ms, acl = row
                    yield VersionLine(key, seq, version, etag, size, modified_ms, latest, acl)

    return scan


async def list_versions(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """ListObjectVersions."""
    del exchange
    query = request.query
    encode = encoder(request)
    marker, version = query.get("key-marker", "").encode(), query.get("version-id-marker", "")
    most = count_asked(request, "max-keys")
    if version and not marker:
        message = "A version-id marker cannot be specified without a key marker."
        raise S3Error("InvalidArgument", message, ArgumentName="version-id-marker")
    ask = PageAsk(
        query.get("prefix", "").encode(),
        query.get("delimiter", "").encode(),
        marker,
        most,
        inclusive=bool(version),
    )

    def read() -> tuple[str, Page[VersionLine]]:
        reader = store.index.reader()
        owner = demand_bucket(reader, request.bucket)
        resume = (marker, _seq_of(reader, request, version)) if version else (b"", 0)
        return owner, page_of(scan_versions(reader, request.bucket, resume), ask)

    owner, page = await store.in_thread(read)
    nodes = _page_nodes(request, encode, page, most)
    lines = [_line_node(line, encode, owner) for line in page.rows]
    return Reply(200, XML, write("ListVersionsResult", nodes + lines + prefix_nodes(page.prefixes, encode)))


def _seq_of(db: sqlite3.Connection, request: S3Request, version: str) -> int:
    """Which change a version-id marker stands for. Raises: S3Error InvalidArgument."""
    seq = seq_of(version)
    if seq is not None:
        return seq
    row = find_version(db, request.bucket, ObjectKey(request.query["key-marker"]), version)
    if row is None:
        raise S3Error("InvalidArgument", "Invalid version id specified", ArgumentName="version-id-marker")
    return row.seq


def _page_nodes(
    request: S3Request, encode: Callable[[str], str], page: Page[VersionLine], most: int
) -> list[Node]:
    names = (("delimiter", "Delimiter"), ("encoding-type", "EncodingType"))
    nodes: list[Node] = [
        ("Name", request.bucket),
        ("Prefix", encode(request.query.get("prefix", ""))),
        ("KeyMarker", encode(request.query.get("key-marker", ""))),
        ("VersionIdMarker", request.query.get("version-id-marker", "")),
        ("MaxKeys", str(most)),
        ("IsTruncated", "true" if page.truncated else "false"),
        *echoes(request, encode, *names),
    ]
    if page.truncated:
        nodes.append(("NextKeyMarker", encode(page.last.decode("utf-8", "replace"))))
        if page.rows and page.rows[-1].raw_key == page.last:
            # Always by change number: a reader that deletes as it pages must find its place without the row.
            nodes.append(("NextVersionIdMarker", name_of(ENABLED, page.rows[-1].seq)))
    return nodes


def _line_node(line: VersionLine, encode: Callable[[str], str], bucket_owner: str) -> Node:
    owner: Node = ("Owner", owner_nodes(owner_of(line.acl, bucket_owner)))
    nodes: list[Node] = [
        ("Key", encode(line.raw_key.decode())),
        ("VersionId", line.version),
        ("IsLatest", "true" if line.latest else "false"),
        ("LastModified", iso_date(line.modified_ms)),
    ]
    if not line.etag:
        return ("DeleteMarker", [*nodes, owner])
    shown: list[Node] = [("ETag", f'"{line.etag}"'), ("Size", str(line.size)), ("StorageClass", "STANDARD")]
    return ("Version", [*nodes, *shown, owner])
