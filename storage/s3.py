"""The store's front: verify, find the operation, run it, and answer every failure in S3's words."""

import logging
import secrets
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType

from storage.auth import sigv2
from storage.auth.sigv4 import Verified
from storage.authority import authorise
from storage.disk.spare import demand_room_for
from storage.fault import NO_ROOM, S3Error, StoreBroken
from storage.figures import UNREAD, StoreFigures
from storage.homes.door import Homes
from storage.http.document import error_document
from storage.http.reply import XML, Reply, send_reply
from storage.http.request import S3Request, is_granted, parse_path, read_request, signable
from storage.http.virtual import located
from storage.operations import (
    acl,
    attributes,
    buckets,
    cors,
    deletion,
    events,
    lifecycle,
    multipart,
    notification,
    objects,
    partcopy,
    policy,
    post,
    public_access,
    reads,
    tagging,
    versioning,
)
from storage.store import Store
from wire.http.http1 import RequestHead
from wire.refused.refusal import Refusal
from wire.serve import Disconnected, Exchange

log = logging.getLogger("nearfield.storage")

Run = Callable[[Store, Exchange, S3Request], Awaitable[Reply]]

HANDLERS: Mapping[str, Run] = MappingProxyType(
    {
        "ListBuckets": buckets.list_buckets,
        "ListChanges": events.list_changes,
        "CreateBucket": buckets.create,
        "HeadBucket": buckets.head,
        "DeleteBucket": buckets.delete,
        "GetBucketLocation": buckets.location,
        "ListObjects": buckets.list_v1,
        "ListObjectsV2": buckets.list_v2,
        "ListMultipartUploads": buckets.list_uploads,
        "DeleteObjects": deletion.delete_many,
        "PostObject": post.refuse,
        "GetObject": reads.get,
        "HeadObject": reads.head,
        "PutObject": objects.put,
        "CopyObject": objects.copy,
        "DeleteObject": deletion.delete,
        "CreateMultipartUpload": multipart.create,
        "UploadPart": multipart.put_one,
        "ListParts": multipart.list_parts,
        "CompleteMultipartUpload": multipart.complete,
        "AbortMultipartUpload": multipart.abort,
        "UploadPartCopy": partcopy.copy_part,
        "GetObjectAttributes": attributes.get,
        "GetBucketAcl": acl.get_bucket,
        "PutBucketAcl": acl.put_bucket,
        "GetObjectAcl": acl.get_object,
        "PutObjectAcl": acl.put_object,
        "GetBucketPolicy": policy.get,
        "PutBucketPolicy": policy.put,
        "DeleteBucketPolicy": policy.delete,
        "GetBucketPolicyStatus": policy.status,
        "GetPublicAccessBlock": public_access.get,
        "PutPublicAccessBlock": public_access.put,
        "DeletePublicAccessBlock": public_access.delete,
        "GetBucketCors": cors.CORS.get,
        "PutBucketCors": cors.CORS.put,
        "DeleteBucketCors": cors.CORS.delete,
        "GetBucketLifecycleConfiguration": lifecycle.LIFECYCLE.get,
        "PutBucketLifecycleConfiguration": lifecycle.LIFECYCLE.put,
        "DeleteBucketLifecycle": lifecycle.LIFECYCLE.delete,
        "GetBucketNotificationConfiguration": notification.get,
        "PutBucketNotificationConfiguration": notification.put,
        "ListDeadLetters": notification.list_letters,
        "ReplayDeadLetters": notification.replay_letters,
        "DeleteDeadLetter": notification.drop_letters,
        "GetBucketVersioning": versioning.get,
        "PutBucketVersioning": versioning.put,
        "ListObjectVersions": versioning.list_versions,
        "GetObjectTagging": tagging.get_object,
        "PutObjectTagging": tagging.put_object,
        "DeleteObjectTagging": tagging.delete_object,
        "GetBucketTagging": tagging.get_bucket,
        "PutBucketTagging": tagging.put_bucket,
        "DeleteBucketTagging": tagging.delete_bucket,
    }
)


class S3Service:
    """wire's handler: one exchange in, one answer out."""

    def __init__(self, store: Store, homes: Homes | None = None, figures: StoreFigures | None = None) -> None:
        self._store = store
        self._figures = figures
        self._homes = homes  # of buckets that live in another region's store

    async def __call__(self, exchange: Exchange) -> None:
        """Raises: Disconnected, and whatever broke an answer under way, which cuts the connection."""
        asked, whole = [UNREAD], False
        try:
            await self._serve(exchange, asked)
            whole = True
        finally:
            if self._figures is not None:
                self._figures.ended(exchange, asked[-1], whole=whole)

    async def _serve(self, exchange: Exchange, asked: list[str]) -> None:
        """`asked` gets the name of the operation once that is known."""
        request_id = secrets.token_hex(8).upper()
        head = located(exchange.head, self._store.domains)
        crossing = cors.answer_headers(self._store, head)
        headers = (("x-amz-request-id", request_id), ("server", "nearfield"), *crossing)
        try:
            reply = await self._answer(exchange, head, asked)
            if reply is not None:
                await send_reply(exchange, reply, headers)
        except (S3Error, Refusal, OSError, sqlite3.Error, StoreBroken) as error:
            if exchange.status or isinstance(error, Disconnected):
                raise
            await send_reply(exchange, _error_reply(exchange, translate(error), request_id), headers)

    async def _answer(self, exchange: Exchange, head: RequestHead, asked: list[str]) -> Reply | None:
        """No handler runs, and no body is read, before the signature holds and the request may be.

        A preflight reaches no handler. Where the store lets strangers in, one who signed nothing may what a list or a
        policy gives to everybody. On a bucket that lives elsewhere only the key's grants count here.

        A form brings its signature among its fields: those are read first, and nothing of its file.

        Args:
            exchange: the request as it was sent, which is what is signed.
            head: the same with a path-style path.
            asked: gets the name of the operation.

        Returns: None if the home of the bucket has answered.
        """
        store, homes = self._store, self._homes
        if cors.is_preflight(head):
            asked.append("Preflight")
            return await self._preflight(exchange, head)
        if post.is_form(head):
            asked.append("PostObject")
            self._refuse_far_form(head)
            return await post.receive_form(store, exchange, head)
        request = read_request(*_verify(store, exchange.head, head), exchange.peer)
        asked.append(request.operation)
        bucket = far_bucket(request, homes)
        if homes is not None and bucket is not None:
            if not is_granted(request):
                raise S3Error("AccessDenied", "Without a grant on this bucket, ask at its home region.")
            return await homes.answer(exchange, request, bucket)
        request = authorise(store, request)
        demand_room_for(request.operation, store.blobs.root)
        return await HANDLERS[request.operation](store, exchange, request)

    def _refuse_far_form(self, head: RequestHead) -> None:
        """Raises: S3Error NotImplemented: what signs a form comes after what would have to be passed on."""
        bucket, _ = parse_path(head.path)
        if self._homes is not None and bucket is not None and self._homes.has(bucket):
            raise S3Error("NotImplemented", "Forms for a bucket of another region are taken at its home.")

    async def _preflight(self, exchange: Exchange, head: RequestHead) -> Reply | None:
        """What the rules of the bucket say, wherever it lives."""
        try:
            bucket, _ = parse_path(head.path)
        except S3Error:
            bucket = None  # no bucket of that name has rules
        if self._homes is None or bucket is None or not self._homes.has(bucket):
            return cors.preflight(self._store, head)
        await self._homes.pass_on(exchange, bucket)
        return None


def far_bucket(request: S3Request, homes: Homes | None) -> str | None:
    """The bucket that a request is about if that lives elsewhere. Raises: S3Error NotImplemented."""
    if homes is None:
        return None
    named: str = request.bucket if request.names_bucket else request.query.get("bucket", "")
    if homes.has(named):
        return named
    source = (request.get("x-amz-copy-source") or "").removeprefix("/").partition("/")[0]
    if homes.has(source):
        raise S3Error("NotImplemented", "Copies from a bucket of another region are made at its home.")
    return None


def _verify(store: Store, sent: RequestHead, head: RequestHead) -> tuple[RequestHead, Verified]:
    """The head to obey, and who signed it; Signature Version 2 is over the path-style path. Raises: S3Error."""
    now = store.clock()
    if not store.verifier.sigv2 or not sigv2.is_claimed(signable(sent)):
        return head, store.verifier.verify(signable(sent), now)
    headers, verified = sigv2.verify(signable(head), store.verifier.keys, now)
    return head.with_headers(headers), verified


def translate(error: Exception) -> S3Error:
    """Any failure of a request as the S3Error to answer with."""
    if isinstance(error, S3Error):
        return error
    if isinstance(error, Refusal):
        code = {408: "RequestTimeout", 413: "EntityTooLarge"}.get(error.status, "IncompleteBody")
        return S3Error(code, error.message)
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return S3Error("InsufficientStorage", "The store's disk is full.")
    if isinstance(error, StoreBroken):
        return S3Error("ServiceUnavailable", "The store has stopped; it must be restarted.")
    log.error("request failed", exc_info=error)
    return S3Error("InternalError", "We encountered an internal error. Please try again.")


def _error_reply(exchange: Exchange, error: S3Error, request_id: str) -> Reply:
    if error.code == "NotModified":
        return Reply(304, (("etag", f'"{error.details["ETag"]}"'),))
    body = error_document(error, exchange.head.path, request_id)
    if exchange.head.method == "HEAD":
        return Reply(error.status, (*XML, *error.headers), length=len(body))
    if error.code != "InvalidRange":
        return Reply(error.status, (*XML, *error.headers), body)
    unsatisfied = ("content-range", f"bytes */{error.details['ActualObjectSize']}")
    return Reply(error.status, (*XML, unsatisfied), body)
