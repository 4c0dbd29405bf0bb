"""The public access block of a bucket: four switches that outdo its ACLs and its policy."""

from storage.auth.access import SWITCHES
from storage.fault import S3Error
from storage.http.document import MAX_DOCUMENT_BYTES, Element, Node, parse, write
from storage.http.receive import read_document
from storage.http.reply import XML, Reply
from storage.http.request import S3Request
from storage.index.access import SWITCHES as SETTING
from storage.index.access import drop_access, put_access
from storage.index.database import Transaction
from storage.index.reads import demand_bucket
from storage.index.settings import find_setting
from storage.store import Store
from wire.serve import Exchange

ROOT = "PublicAccessBlockConfiguration"


async def get(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """GetPublicAccessBlock."""
    del exchange
    reader = store.index.reader()
    demand_bucket(reader, request.bucket)
    document = find_setting(reader, request.bucket, SETTING)
    if document is None:
        message = "The public access block configuration was not found"
        raise S3Error("NoSuchPublicAccessBlockConfiguration", message, BucketName=request.bucket)
    on = document.split()
    nodes: list[Node] = [(name, "true" if name in on else "false") for name in SWITCHES]
    return Reply(200, XML, write(ROOT, nodes))


async def put(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """PutPublicAccessBlock: a switch that is not named is off."""
    root = parse(await read_document(exchange, request, MAX_DOCUMENT_BYTES, store.pool), ROOT)
    document = " ".join(name for name in SWITCHES if _is_on(root, name))

    def apply(tx: Transaction) -> None:
        demand_bucket(tx.db, request.bucket)
        put_access(tx, request.bucket, SETTING, document)

    await store.commit(apply)
    return Reply(200)


def _is_on(root: Element, name: str) -> bool:
    """Raises: S3Error MalformedXML for what is neither true nor false."""
    text = (root.value(name) or "false").lower()
    if text not in {"true", "false"}:
        raise S3Error("MalformedXML", f"{name} is true or false.")
    return text == "true"


async def delete(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """DeletePublicAccessBlock; that there is none is no error."""
    del exchange

    def apply(tx: Transaction) -> None:
        demand_bucket(tx.db, request.bucket)
        drop_access(tx, request.bucket, SETTING)

    await store.commit(apply)
    return Reply(204)
