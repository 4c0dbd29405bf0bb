"""Operations on the tags of objects and of buckets."""

import json
from dataclasses import replace

from storage.authority import authorise
from storage.fault import S3Error
from storage.http.document import MAX_DOCUMENT_BYTES, write
from storage.http.receive import read_document
from storage.http.reply import XML, Reply
from storage.http.request import S3Request
from storage.index import versions
from storage.index.database import Transaction
from storage.index.reads import demand_bucket
from storage.index.rows import ObjectRow
from storage.index.settings import drop_setting, find_setting, put_setting
from storage.index.tags import (
    MAX_BUCKET_TAGS,
    MAX_OBJECT_TAGS,
    line_of,
    parse_tagging,
    split_tags,
    tag_nodes,
    tags_of,
)
from storage.operations.asked import demand_judged
from storage.operations.shown import version_headers
from storage.store import Store
from wire.serve import Exchange

SETTING = "tagging"


async def get_object(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """GetObjectTagging."""
    del exchange
    row = demand_judged(store.index.reader(), request)
    return Reply(200, XML + version_headers(store, row), write("Tagging", tag_nodes(tags_of(row.headers))))


async def put_object(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """PutObjectTagging: all tags of one version at once."""
    data = await read_document(exchange, request, MAX_DOCUMENT_BYTES, store.pool)
    tags = parse_tagging(data, MAX_OBJECT_TAGS)
    judged = authorise(store, request, tags)  # again: a policy may ask which tags
    row = await store.commit(lambda tx: _retag(tx, judged, tags))
    return Reply(200, version_headers(store, row))


async def delete_object(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """DeleteObjectTagging."""
    del exchange
    row = await store.commit(lambda tx: _retag(tx, request, {}))
    return Reply(204, version_headers(store, row))


def _retag(tx: Transaction, request: S3Request, tags: dict[str, str]) -> ObjectRow:
    row = demand_judged(tx.db, request)
    kept, _ = split_tags(row.headers)
    return versions.rewrite_headers(tx.db, replace(row, headers=kept + line_of(tags)))


async def get_bucket(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """GetBucketTagging."""
    del exchange
    reader = store.index.reader()
    demand_bucket(reader, request.bucket)
    document = find_setting(reader, request.bucket, SETTING)
    if document is None:
        raise S3Error("NoSuchTagSet", "The TagSet does not exist", BucketName=request.bucket)
    return Reply(200, XML, write("Tagging", tag_nodes(json.loads(document))))


async def put_bucket(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """PutBucketTagging."""
    data = await read_document(exchange, request, MAX_DOCUMENT_BYTES, store.pool)
    document = json.dumps(parse_tagging(data, MAX_BUCKET_TAGS))

    def apply(tx: Transaction) -> None:
        demand_bucket(tx.db, request.bucket)
        put_setting(tx.db, request.bucket, SETTING, document)

    await store.commit(apply)
    return Reply(204)


async def delete_bucket(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """DeleteBucketTagging."""
    del exchange

    def apply(tx: Transaction) -> None:
        demand_bucket(tx.db, request.bucket)
        drop_setting(tx.db, request.bucket, SETTING)

    await store.commit(apply)
    return Reply(204)
