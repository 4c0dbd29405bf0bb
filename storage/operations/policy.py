"""Operations on a bucket's policy. What a policy decides is in `auth.policy`."""

from storage.auth.access import BLOCK_POLICY
from storage.auth.policy import MAX_POLICY_BYTES, parse_policy
from storage.fault import S3Error
from storage.http.document import write
from storage.http.receive import read_document
from storage.http.reply import XML, Reply
from storage.http.request import S3Request
from storage.index.access import POLICY, drop_access, put_access
from storage.index.database import Transaction
from storage.index.reads import demand_bucket, no_such_bucket
from storage.index.settings import find_setting
from storage.store import Store
from wire.serve import Exchange

JSON = (("content-type", "application/json"),)


async def get(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """GetBucketPolicy: the document as it was sent."""
    del exchange
    reader = store.index.reader()
    demand_bucket(reader, request.bucket)
    document = find_setting(reader, request.bucket, POLICY)
    if document is None:
        raise S3Error("NoSuchBucketPolicy", "The bucket policy does not exist", BucketName=request.bucket)
    return Reply(200, JSON, document.encode())


async def put(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """PutBucketPolicy. A public one is refused where that is switched off."""
    data = await read_document(exchange, request, MAX_POLICY_BYTES, store.pool)
    policy = parse_policy(data, request.bucket)
    access = store.accesses.find(request.bucket)
    if access is None:
        raise no_such_bucket(request.bucket)
    if policy.public and BLOCK_POLICY in access.switches:
        raise S3Error("AccessDenied", "Public policies are blocked on this bucket (BlockPublicPolicy).")
    document = data.decode()

    def apply(tx: Transaction) -> None:
        demand_bucket(tx.db, request.bucket)
        put_access(tx, request.bucket, POLICY, document)

    await store.commit(apply)
    return Reply(204)


async def delete(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """DeleteBucketPolicy; that there is none is no error."""
    del exchange

    def apply(tx: Transaction) -> None:
        demand_bucket(tx.db, request.bucket)
        drop_access(tx, request.bucket, POLICY)

    await store.commit(apply)
    return Reply(204)


async def status(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """GetBucketPolicyStatus: whether the policy or the ACL opens the bucket to everybody."""
    del exchange
    access = store.accesses.find(request.bucket)
    if access is None:
        raise no_such_bucket(request.bucket)
    public = "true" if access.public else "false"
    return Reply(200, XML, write("PolicyStatus", [("IsPublic", public)]))
