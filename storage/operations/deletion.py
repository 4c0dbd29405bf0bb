"""DeleteObject and DeleteObjects."""

from dataclasses import dataclass

from storage.auth.key import ObjectKey, parse_key
from storage.authority import demand_delete
from storage.fault import S3Error
from storage.http.document import MAX_DOCUMENT_BYTES, Element, Node, parse, write
from storage.http.receive import read_document
from storage.http.reply import XML, Reply
from storage.http.request import S3Request
from storage.index.conditions import Conditions, parse_etags
from storage.index.database import Transaction
from storage.index.objects import ANY, Deleted, delete_object, delete_version
from storage.operations.asked import parse_version, version_asked, write_conditions
from storage.store import Store
from wire.serve import Exchange

MAX_DELETES = 1000  # S3's limit for one DeleteObjects


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


@dataclass(frozen=True, slots=True)
class _Doomed:
    """One object named in a DeleteObjects document; `refusal` is its own, and the others go on."""

    name: str
    key: ObjectKey
    version: str | None = None
    conditions: Conditions = ANY
    refusal: S3Error | None = None


async def delete_many(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """DeleteObjects: one transaction, an answer for each key."""
    data = await read_document(exchange, request, MAX_DOCUMENT_BYTES, store.pool)
    root = parse(data, "Delete")
    asked = root.all("Object")
    if not 0 < len(asked) <= MAX_DELETES:
        raise S3Error("MalformedXML", f"Delete takes 1 to {MAX_DELETES} objects.")
    quiet = (root.value("Quiet") or "").lower() == "true"
    doomed = [_doomed(store, request, item) for item in asked]
    nodes = await store.commit(lambda tx: [_delete_one(tx, request, each) for each in doomed])
    return Reply(200, XML, write("DeleteResult", [node for node in nodes if not quiet or node[0] == "Error"]))


def _doomed(store: Store, request: S3Request, item: Element) -> _Doomed:
    """What an element names, if it may be deleted. Raises: S3Error MalformedXML, NoSuchBucket."""
    name = item.exact("Key")
    try:
        version = parse_version(item.value("VersionId") or None)
        key = parse_key(name.encode())
        conditions = Conditions(parse_etags(item.value("ETag")))
        demand_delete(store, request, key, version)
    except S3Error as error:
        if error.code == "NoSuchBucket":
            raise
        return _Doomed(name, ObjectKey(name), refusal=error)
    return _Doomed(name, key, version, conditions)


def _delete_one(tx: Transaction, request: S3Request, doomed: _Doomed) -> Node:
    """Delete one named key. Nothing was changed when a refusal is raised."""
    if doomed.refusal is not None:
        return _refused(doomed.name, doomed.refusal)
    try:
        done = _delete(tx, request, doomed.key, doomed.version, doomed.conditions)
    except S3Error as error:
        if error.code == "NoSuchBucket":
            raise
        return _refused(doomed.name, error)
    return ("Deleted", [("Key", doomed.name), *_deleted_nodes(doomed.version, done)])


def _refused(name: str, error: S3Error) -> Node:
    return ("Error", [("Key", name), ("Code", error.code), ("Message", error.message)])


def _deleted_nodes(version: str | None, done: Deleted) -> list[Node]:
    """Which version went, and which marker came or went."""
    nodes: list[Node] = [] if version is None else [("VersionId", version)]
    if done.marker and done.version is not None:
        nodes += [("DeleteMarker", "true"), ("DeleteMarkerVersionId", done.version)]
    return nodes
