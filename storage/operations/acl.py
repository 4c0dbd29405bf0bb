"""Access control lists, as far as they are true here: rights are by key, so every list is `private`.

A list that would open a bucket or an object to others is refused: to accept it would be a lie.
"""

from storage.fault import S3Error
from storage.http.document import MAX_DOCUMENT_BYTES, Element, Node, parse, write
from storage.http.ingest import read_document
from storage.http.reply import XML, Reply
from storage.http.request import S3Request
from storage.index.commits import demand_bucket, demand_object
from storage.operations.buckets import OWNER
from storage.operations.objects import version_asked
from storage.store import Store
from wire.serve import Exchange

_XSI = 'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="CanonicalUser"'


def _document() -> bytes:
    grantee: list[Node] = [("Grantee", OWNER), ("Permission", "FULL_CONTROL")]
    text = write("AccessControlPolicy", [("Owner", OWNER), ("AccessControlList", [("Grant", grantee)])])
    return text.replace(b"<Grantee>", f"<Grantee {_XSI}>".encode())


async def get_bucket(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """GetBucketAcl."""
    del exchange
    demand_bucket(store.index.reader(), request.bucket)
    return Reply(200, XML, _document())


async def get_object(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """GetObjectAcl."""
    del exchange
    demand_object(store.index.reader(), request.bucket, request.key, version_asked(request))
    return Reply(200, XML, _document())


async def put_bucket(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """PutBucketAcl: only what stands already."""
    data = await read_document(exchange, request, MAX_DOCUMENT_BYTES, store.pool)
    demand_bucket(store.index.reader(), request.bucket)
    _demand_private(request, data)
    return Reply(200)


async def put_object(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """PutObjectAcl: only what stands already."""
    data = await read_document(exchange, request, MAX_DOCUMENT_BYTES, store.pool)
    demand_object(store.index.reader(), request.bucket, request.key, version_asked(request))
    _demand_private(request, data)
    return Reply(200)


def _demand_private(request: S3Request, data: bytes) -> None:
    """Raises: S3Error MalformedXML, InvalidRequest, NotImplemented."""
    if bool(data) == (request.get("x-amz-acl") is not None):
        raise S3Error("InvalidRequest", "Specify a canned ACL or a document, and not both.")
    if not data:
        return  # which canned lists there are, the table of headers says
    lists = parse(data, "AccessControlPolicy").all("AccessControlList")
    grants = [grant for each in lists for grant in each.all("Grant")]
    if len(grants) != 1 or not _is_own(grants[0]):
        raise S3Error(
            "NotImplemented", "This store does not implement: ACLs other than private; grant rights by key."
        )


def _is_own(grant: Element) -> bool:
    grantees = [grantee.value("ID") for grantee in grant.all("Grantee")]
    return grantees == ["nearfield"] and grant.need("Permission") == "FULL_CONTROL"
