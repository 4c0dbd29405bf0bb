"""Which events of a bucket go to which webhook, and what became of those that no webhook took."""

import json

from storage.auth.key import Right
from storage.fault import S3Error
from storage.http.document import MAX_DOCUMENT_BYTES, parse, write
from storage.http.receive import read_document
from storage.http.reply import XML, Reply
from storage.http.request import S3Request
from storage.index.database import Transaction
from storage.index.outbox import Letter, ask_replay, bounds, drop_letter, read_letters
from storage.index.reads import demand_bucket
from storage.index.settings import drop_setting, find_setting, put_setting
from storage.notify.courier import SETTING
from storage.notify.targets import ROOT, begun, pack_targets, target_nodes, targets_of, unpack_targets
from storage.operations.events import JSON
from storage.store import Store
from wire.serve import Exchange

MAX_LETTERS_SHOWN = 100  # each may hold a message of 100 records
EVERYTHING = "*"  # webhooks serve all buckets: their letters are for who may do everything


async def get(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """GetBucketNotificationConfiguration: an empty document if there is none, as in S3."""
    del exchange
    reader = store.index.reader()
    demand_bucket(reader, request.bucket)
    targets = unpack_targets(find_setting(reader, request.bucket, SETTING))
    return Reply(200, XML, write(ROOT, target_nodes(targets)))


async def put(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """PutBucketNotificationConfiguration: replaces all of it; an empty document ends it."""
    data = await read_document(exchange, request, MAX_DOCUMENT_BYTES, store.pool)
    targets = targets_of(parse(data, ROOT), store.webhooks)

    def apply(tx: Transaction) -> None:
        demand_bucket(tx.db, request.bucket)
        before = unpack_targets(find_setting(tx.db, request.bucket, SETTING))
        if not targets:
            drop_setting(tx.db, request.bucket, SETTING)
            return
        _, head = bounds(tx.db)
        put_setting(tx.db, request.bucket, SETTING, pack_targets(begun(targets, before, head)))

    await store.commit(apply)
    return Reply(200)


async def list_letters(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """ListDeadLetters: `GET /?nearfield-dead-letters&webhook=ID&after=N`, signed, for administrators of everything."""
    del exchange
    webhook = _webhook(store, request)
    after = _number(request, "after") or 0
    letters = await store.in_thread(
        lambda: read_letters(store.index.reader(), webhook, after, MAX_LETTERS_SHOWN)
    )
    shown = {"webhook": webhook, "letters": [_shown(letter) for letter in letters]}
    return Reply(200, JSON, json.dumps(shown, ensure_ascii=False).encode())


async def replay_letters(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """ReplayDeadLetters: `POST` to the same; one letter with `letter=N`, else all of the webhook's."""
    del exchange
    webhook, letter = _webhook(store, request), _number(request, "letter")
    asked = await store.commit(lambda tx: ask_replay(tx, webhook, letter))
    return Reply(202, JSON, json.dumps({"webhook": webhook, "replayed": asked}).encode())


async def drop_letters(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """DeleteDeadLetter: `DELETE` to the same, with `letter=N`."""
    del exchange
    webhook, letter = _webhook(store, request), _number(request, "letter")
    if letter is None:
        raise S3Error("InvalidArgument", "Say which letter: letter=N.", ArgumentName="letter")
    await store.commit(lambda tx: drop_letter(tx, webhook, letter))
    return Reply(204)


def _webhook(store: Store, request: S3Request) -> str:
    request.identity.demand(Right.ADMIN, EVERYTHING)
    webhook = request.query.get("webhook", "")
    if webhook not in store.webhooks:
        known = ", ".join(sorted(store.webhooks)) or "none"
        raise S3Error("InvalidArgument", f"webhook is one of: {known}.", ArgumentName="webhook")
    return webhook


def _number(request: S3Request, name: str) -> int | None:
    raw = request.query.get(name)
    if raw is not None and not (raw.isascii() and raw.isdigit() and len(raw) < 16):
        raise S3Error("InvalidArgument", f"{name} is a number.", ArgumentName=name)
    return None if raw is None else int(raw)


def _shown(letter: Letter) -> dict[str, object]:
    return {
        "letter": letter.id,
        "at": letter.at_ms / 1000,
        "tries": letter.tries,
        "reason": letter.reason,
        "replaying": letter.replay,
        "records": letter.records,
    }
