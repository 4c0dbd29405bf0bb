"""Access control lists of buckets and objects: read, replaced, given back as they were understood."""

from dataclasses import replace

from storage.auth.access import BucketAccess
from storage.auth.acl import (
    Acl,
    AclGrant,
    Permission,
    acl_from_headers,
    asks_acl,
    grantee,
    make_acl,
    pack_acl,
    private,
)
from storage.fault import S3Error
from storage.http.document import MAX_DOCUMENT_BYTES, Element, Node, parse, write
from storage.http.receive import read_document
from storage.http.reply import XML, Reply
from storage.http.request import S3Request
from storage.index.access import ACL, kept_acl, put_access
from storage.index.database import Transaction
from storage.index.reads import demand_bucket, no_such_bucket
from storage.index.versions import rewrite_acl
from storage.operations.asked import demand_judged
from storage.operations.buckets import owner_nodes
from storage.store import Store
from wire.serve import Exchange

_XSI = 'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
_WHO = (("ID", "id"), ("URI", "uri"), ("EmailAddress", "emailAddress"))


def _document(acl: Acl) -> bytes:
    """The list as XML. The writer has no attributes, and S3 tells the kind of a grantee in one."""
    grants: list[Node] = [("Grant", _grant_nodes(grant)) for grant in acl.grants]
    text = write("AccessControlPolicy", [("Owner", owner_nodes(acl.owner)), ("AccessControlList", grants)])
    for kind in ("Group", "CanonicalUser"):
        text = text.replace(f"<{kind}>".encode(), f'<Grantee {_XSI} xsi:type="{kind}">'.encode())
        text = text.replace(f"</{kind}>".encode(), b"</Grantee>")
    return text


def _grant_nodes(grant: AclGrant) -> list[Node]:
    who: Node = ("CanonicalUser", owner_nodes(grant.grantee))
    if grant.public:
        who = ("Group", [("URI", grant.grantee)])
    return [who, ("Permission", grant.permission.value)]


async def get_bucket(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """GetBucketAcl."""
    del exchange
    return Reply(200, XML, _document(_access(store, request).acl))


async def get_object(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """GetObjectAcl."""
    del exchange
    row = demand_judged(store.index.reader(), request)
    return Reply(200, XML, _document(row.acl or private(_access(store, request).owner)))


async def put_bucket(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """PutBucketAcl: the owner stays who it is."""
    data = await read_document(exchange, request, MAX_DOCUMENT_BYTES, store.pool)
    access = _access(store, request)
    acl = _asked(store, request, data, access.owner, access)

    def apply(tx: Transaction) -> None:
        if demand_bucket(tx.db, request.bucket) != acl.owner:
            raise S3Error("AccessDenied", "The bucket has another owner now.")
        put_access(tx, request.bucket, ACL, pack_acl(acl) or "")

    await store.commit(apply)
    return Reply(200)


async def put_object(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """PutObjectAcl, of one version: the owner stays who it is."""
    data = await read_document(exchange, request, MAX_DOCUMENT_BYTES, store.pool)
    access = _access(store, request)
    row = demand_judged(store.index.reader(), request)
    owner = row.acl.owner if row.acl else access.owner
    acl = _asked(store, request, data, owner, access)

    def apply(tx: Transaction) -> None:
        now = demand_judged(tx.db, replace(request, judged=row.seq))
        kept = kept_acl(tx, request.bucket, demand_bucket(tx.db, request.bucket), acl)
        rewrite_acl(tx.db, replace(now, acl=kept))

    await store.commit(apply)
    return Reply(200)


def _access(store: Store, request: S3Request) -> BucketAccess:
    """Raises: S3Error NoSuchBucket."""
    access = store.accesses.find(request.bucket)
    if access is None:
        raise no_such_bucket(request.bucket)
    return access


def _asked(store: Store, request: S3Request, data: bytes, owner: str, access: BucketAccess) -> Acl:
    """The list that headers or a document ask for. Raises: S3Error."""
    knows = store.verifier.keys.knows
    acl = acl_from_headers(request.head.headers, owner, access.owner, knows)
    if bool(data) == asks_acl(request.head.headers):
        raise S3Error("InvalidRequest", "Specify headers or a document, and not both.")
    if acl is None:
        acl = make_acl(owner, _grants(data, owner), knows)
    access.demand_unblocked(acl)
    return acl


def _grants(data: bytes, owner: str) -> list[AclGrant]:
    """What an AccessControlPolicy document grants. Raises: S3Error MalformedXML, AccessDenied, InvalidArgument."""
    root = parse(data, "AccessControlPolicy")
    named = [each.value("ID") for each in root.all("Owner")]
    if named not in ([], [None], [owner]):
        raise S3Error("AccessDenied", "An ACL does not change the owner.")
    lists = root.all("AccessControlList")
    if len(lists) != 1:
        raise S3Error("MalformedXML", "AccessControlPolicy has one AccessControlList.")
    return [_grant(element) for element in lists[0].all("Grant")]


def _grant(element: Element) -> AclGrant:
    permission = element.need("Permission")
    whom = element.all("Grantee")
    if len(whom) != 1 or permission not in set(Permission):
        raise S3Error("MalformedXML", "A Grant has a Grantee and a Permission.")
    found = [(kind, whom[0].value(name)) for name, kind in _WHO]
    said = [(kind, text) for kind, text in found if text]
    if len(said) != 1:
        raise S3Error("MalformedXML", "A Grantee is an ID, a URI or an EmailAddress.")
    return AclGrant(grantee(*said[0]), Permission(permission))
