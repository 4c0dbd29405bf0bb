"""The book of API keys: objects of digests; made, rotated and revoked without ever keeping a key."""

import asyncio
import json
from dataclasses import replace

import pytest

from regions.keys import desk
from regions.keys.book import KeyBook
from regions.keys.record import KeyRecord, digest, new_key, read_record, write_record
from regions.map.policy import KeyGrant, Quota
from storage.client.sdk import StoreError
from tests.regions.fake_store import Disk, FakeStore
from weights_cache.model.strict import StrictError
from wire.refused.refusal import Refusal

NOW = 1_900_000_000
GRANT = KeyGrant("acme", frozenset({"infer"}), ("acme/*",), 0, Quota(60, 90_000, 4, 2))
ADMIN = KeyGrant("ops", frozenset({"admin"}))


@pytest.fixture
def changes():
    return []


@pytest.fixture
def store():
    disk = Disk({"nearfield-system": {}})
    return FakeStore(disk)


@pytest.fixture
def book(store, changes):
    return KeyBook(store, lambda: changes.append(1), lambda: NOW)


async def test_a_key_is_told_once_and_kept_as_a_digest(book, store, changes):
    """Nothing in the store opens a door."""
    key, record = await book.make(GRANT, "ci")

    assert record == KeyRecord(digest(key), "ci", GRANT, NOW)
    assert await book.records() == [record]
    assert len(changes) == 1
    assert all(key.encode() not in each.data for each in store.disk.buckets["nearfield-system"].values())


async def test_rotation_leaves_the_old_key_its_time(book, changes):
    """Both open the same; the old one has an end, and never a later one than it had."""
    _, old = await book.make(GRANT, "ci")
    key, new = await book.rotate(old.id, 3600)
    by_id = {each.id: each for each in await book.records()}

    assert (new.grant, new.name, new.digest) == (GRANT, "ci", digest(key))
    assert by_id[old.id].grant == replace(GRANT, expires_s=NOW + 3600)
    _, newer = await book.rotate(old.id, 7200)
    by_id = {each.id: each for each in await book.records()}
    assert by_id[old.id].grant.expires_s == NOW + 3600
    assert newer.grant.expires_s == 0


async def test_a_key_that_is_revoked_while_it_is_rotated_stays_revoked(book, store):
    """Its object is written again only over the one that was read."""
    _, old = await book.make(GRANT, "ci")
    make = book.make

    async def slow(grant, name):
        made = await make(grant, name)
        await book.revoke(old.id)
        return made

    book.make = slow
    with pytest.raises(Refusal) as refusal:
        await book.rotate(old.id, 3600)
    assert refusal.value.status == 409
    assert await book.records() == []  # nor is there the one that would have replaced it


async def test_the_last_operator_is_not_locked_out(book):
    """Another admin key first."""
    _, first = await book.make(ADMIN, "")
    with pytest.raises(Refusal) as refusal:
        await book.revoke(first.id)
    assert (refusal.value.status, refusal.value.code) == (409, "last_admin_key")
    await book.make(ADMIN, "")
    assert (await book.revoke(first.id)).id == first.id


async def test_an_unknown_key_is_named(book):
    """With the command that lists them."""
    for work in (book.revoke("0" * 12), book.rotate("0" * 12, 0)):
        with pytest.raises(Refusal, match="nearfield keys ls"):
            await work


async def test_many_at_once_are_all_kept(book):
    """Each is an object of its own."""
    made = await asyncio.gather(*(book.make(GRANT, str(number)) for number in range(20)))
    assert {record.id for _, record in made} == {each.id for each in await book.records()}


def test_a_record_is_what_was_written():
    """And the ones of the first schema grant what they did."""
    record = KeyRecord(digest("k"), "n", GRANT, NOW)
    assert read_record(write_record(record)) == record
    first = {
        "schema": "nearfield.key/1",
        "digest": digest("k"),
        "tenant": "t",
        "scopes": ["infer"],
        "name": "",
    }
    assert read_record(json.dumps(first).encode()).grant == KeyGrant("t", frozenset({"infer"}))


@pytest.mark.parametrize(
    "change",
    [
        {"models": ["acme"]},
        {"models": ["a/b/c"]},
        {"models": ["*"] * 33},
        {"scopes": ["root"]},
        {"tenant": ""},
        {"tenant": "a b"},
        {"expires_s": -1},
        {"quota": {"requests_per_min": 1}},
        {"quota": {"requests_per_min": 1, "tokens_per_min": 1, "streams": 1, "weight": 0}},
        {"key": "nf-secret"},
        {"schema": "nearfield.key/3"},
        {"digest": "d" * 63},
    ],
)
def test_a_malformed_record_grants_nothing(change):
    """Each field has its bounds, and no other field may be there."""
    value = json.loads(write_record(KeyRecord(digest("k"), "n", GRANT, NOW))) | change
    with pytest.raises(StrictError):
        read_record(json.dumps(value).encode())


def test_keys_are_long_and_never_alike():
    """256 random bits each."""
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(key.startswith("nf-") and len(key) == 46 for key in keys)


@pytest.mark.parametrize(
    ("patterns", "model", "named"),
    [
        (("*",), "a/b", True),
        (("a/*",), "a/b", True),
        (("a/*",), "ab/c", False),
        (("a/b",), "a/b", True),
        (("a/b",), "a/bc", False),
        (("x/y", "a/b"), "a/b", True),
        ((), "a/b", False),
        (("*",), "", True),
        (("a/*",), "", False),
    ],
)
def test_what_a_key_names(patterns, model, named):
    """A model, an organisation's models, or all."""
    assert KeyGrant("t", frozenset(), patterns).names(model) is named


async def test_a_store_that_says_nothing_is_given_up(monkeypatch):
    """Stopped, it takes connections: an operator must not wait for the minutes of an SDK's tries."""
    monkeypatch.setattr(desk, "STORE_S", 0.01)
    with pytest.raises(Refusal) as refused:
        await desk._stored(asyncio.Event().wait())
    assert (refused.value.status, refused.value.code) == (503, "store_unavailable")


async def test_a_store_that_is_full_is_not_said_to_be_silent():
    async def full():
        raise StoreError("InsufficientStorage", "The store's disk is full.", 507)

    with pytest.raises(Refusal, match=r"did not do it \(InsufficientStorage: The store's disk is full\.\)"):
        await desk._stored(full())
