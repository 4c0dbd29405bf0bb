"""Settings of a bucket that are one XML document each: checked, stored as they were understood, given back."""

from collections.abc import Callable
from dataclasses import dataclass

from storage.fault import S3Error
from storage.http.document import MAX_DOCUMENT_BYTES, Element, Node, parse, write
from storage.http.receive import read_document
from storage.http.reply import XML, Reply
from storage.http.request import S3Request
from storage.index.database import Transaction
from storage.index.reads import demand_bucket
from storage.index.settings import drop_setting, find_setting, put_setting
from storage.store import Store
from wire.serve import Exchange


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of document. `check` raises S3Error for what this store cannot do or S3 does not allow."""

    name: str
    root: str
    missing: str  # S3's code if it was never set
    check: Callable[[Element], None]

    async def get(self, store: Store, exchange: Exchange, request: S3Request) -> Reply:
        """The document. Raises: S3Error NoSuchBucket, or the kind's own code."""
        del exchange
        reader = store.index.reader()
        demand_bucket(reader, request.bucket)
        document = find_setting(reader, request.bucket, self.name)
        if document is None:
            raise S3Error(self.missing, f"There is no {self.name} configuration.", BucketName=request.bucket)
        return Reply(200, XML, document.encode())

    async def put(self, store: Store, exchange: Exchange, request: S3Request) -> Reply:
        """Replace the document."""
        data = await read_document(exchange, request, MAX_DOCUMENT_BYTES, store.pool)
        root = parse(data, self.root)
        self.check(root)
        document = write(self.root, _nodes(root)).decode()

        def apply(tx: Transaction) -> None:
            demand_bucket(tx.db, request.bucket)
            put_setting(tx.db, request.bucket, self.name, document)

        await store.commit(apply)
        return Reply(200)

    async def delete(self, store: Store, exchange: Exchange, request: S3Request) -> Reply:
        """Forget the document; that there is none is no error."""
        del exchange

        def apply(tx: Transaction) -> None:
            demand_bucket(tx.db, request.bucket)
            drop_setting(tx.db, request.bucket, self.name)

        await store.commit(apply)
        return Reply(204)


def _nodes(element: Element) -> list[Node]:
    return [
        (child.name, _nodes(child) if child.children else child.text.strip()) for child in element.children
    ]
