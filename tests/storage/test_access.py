"""Who may do what by grants, ownership and lists, over the wire."""

import shutil
from urllib.parse import quote

import pytest

from storage.fault import S3Error
from storage.index.buckets import create_bucket
from storage.index.copies import CopySource, CopyTarget, copy_object
from storage.index.database import Index
from storage.index.objects import put_object
from storage.index.rows import Extent, ObjectRow
from tests.storage.people import EVERYTHING, allow, bucket_of_alice, callers, outcome
from tests.storage.stores import StoreThread, memory_folder


@pytest.fixture
def bucket(world, request):
    return bucket_of_alice(world, request)


def test_a_bucket_is_its_owners_and_nobody_elses(world, bucket):
    found = {name: outcome(caller, bucket) for name, caller in world.items()}

    assert found == dict.fromkeys(world, "") | {"alice": EVERYTHING, "admin": EVERYTHING}


@pytest.mark.parametrize(
    ("acl", "anyone", "signed"),
    [
        ("public-read", "lb", "lb"),
        ("public-read-write", "lbpdm", "lbpdm"),
        ("authenticated-read", "", "lb"),
        ("bucket-owner-full-control", "", ""),
    ],
)
def test_a_list_of_a_bucket_opens_what_it_says(world, bucket, acl, anyone, signed):
    assert world["alice"].send("PUT", f"/{bucket}", "acl=", {"x-amz-acl": acl}).status == 200

    assert outcome(world["anyone"], bucket) == anyone
    for name in ("bob", "nobody", "tenant", "alices_reader"):
        assert outcome(world[name], bucket) == signed


@pytest.mark.parametrize(
    ("acl", "anyone", "signed"),
    [("public-read", "gh", "gh"), ("public-read-write", "gh", "gh"), ("authenticated-read", "", "gh")],
)
def test_a_list_of_an_object_opens_that_object(world, bucket, acl, anyone, signed):
    assert world["alice"].put(bucket, "k", b"k", x_amz_acl=acl).status == 200

    assert outcome(world["anyone"], bucket) == anyone
    for name in ("bob", "nobody", "tenant"):
        assert outcome(world[name], bucket) == signed
        assert world[name].get(bucket, "other").status == 403


def test_a_list_may_name_users(world, bucket):
    grants = {
        "x-amz-grant-read": "id=bob",
        "x-amz-grant-write-acp": "id=bob",
        "x-amz-grant-full-control": "id=alice",
    }
    world["alice"].send("PUT", f"/{bucket}/k", "acl=", grants)
    world["alice"].send("PUT", f"/{bucket}", "acl=", {"x-amz-grant-read-acp": "id=bob"})

    assert outcome(world["bob"], bucket) == "ghA"
    assert outcome(world["nobody"], bucket) == ""
    assert world["bob"].send("PUT", f"/{bucket}/k", "acl=", {"x-amz-acl": "private"}).status == 200
    assert outcome(world["bob"], bucket) == "A"


def test_an_object_is_its_writers(world, bucket):
    """Whose bucket it is may delete it, and reads it if the writer says so."""
    world["alice"].send("PUT", f"/{bucket}", "acl=", {"x-amz-acl": "public-read-write"})
    world["bob"].put(bucket, "bobs", b"1")

    assert [world[name].get(bucket, "bobs").status for name in ("bob", "alice", "admin")] == [200, 403, 200]
    assert world["alice"].send("PUT", f"/{bucket}/bobs", "acl=", {"x-amz-acl": "private"}).status == 403
    listed = world["alice"].send("GET", f"/{bucket}").body.decode()
    assert listed.count("<ID>alice</ID>") == 2
    assert listed.count("<ID>bob</ID>") == 1
    world["bob"].put(bucket, "bobs", b"2", x_amz_acl="bucket-owner-full-control")
    assert world["alice"].get(bucket, "bobs").body == b"2"
    world["bob"].put(bucket, "bobs", b"3")
    assert world["alice"].get(bucket, "bobs").status == 403
    assert world["alice"].delete(bucket, "bobs").status == 204


def test_what_a_stranger_or_a_key_without_a_user_writes_is_the_bucket_owners(world, bucket):
    world["alice"].send("PUT", f"/{bucket}", "acl=", {"x-amz-acl": "public-read-write"})
    for name in ("anyone", "tenant", "admin"):
        assert world[name].put(bucket, name, b"1").status == 200
        assert world["alice"].get(bucket, name).status == 200
    assert world["anyone"].get(bucket, "anyone").status == 403


def test_to_own_takes_an_own_grant(world, bucket):
    """A second key of alice's, which may read elsewhere only, is not alice."""
    assert outcome(world["alices_reader"], bucket) == ""
    assert world["alices_reader"].send("PUT", "/not-made").status == 403
    assert world["nobody"].send("PUT", "/not-made").status == 403


def test_keys_without_a_user_are_no_owners(world):
    """`models` is the fleet's, and so is tenant's key: that opens nothing beyond its grant."""
    world["admin"].put("models", "secret", b"1")
    world["admin"].put("models", "acme/k", b"1")

    assert world["tenant"].get("models", "secret").status == 403
    assert world["tenant"].send("GET", "/models/secret", "acl=").status == 403
    assert world["tenant"].send("GET", "/models", "policy=").status == 403
    assert world["tenant"].get("models", "acme/k").status == 200


def test_to_write_is_not_to_open_what_is_written(world):
    """What a key writes under its grant stays closed, unless an administrator opens it."""
    world["admin"].send("PUT", "/models", "acl=", {"x-amz-acl": "public-read-write"})
    caller, opened_key = world["tenant"], "acme/opened"
    opened = [
        caller.put("models", opened_key, b"1", x_amz_acl="public-read"),
        caller.put("models", opened_key, b"1", x_amz_grant_read="id=bob"),
        caller.send("POST", f"/models/{opened_key}", "uploads=", {"x-amz-acl": "authenticated-read"}),
    ]
    closed = [
        caller.put("models", "acme/closed", b"1", x_amz_acl=acl)
        for acl in ("private", "bucket-owner-full-control")
    ]
    later = caller.send("PUT", "/models/acme/closed", "acl=", {"x-amz-acl": "public-read"})
    world["admin"].send("PUT", "/models", "acl=", {"x-amz-acl": "private"})

    assert [answer.status for answer in (*opened, *closed, later)] == [403] * 3 + [200] * 2 + [403]
    assert world["admin"].get("models", opened_key).status == 404
    assert world["admin"].put("models", opened_key, b"1", x_amz_acl="public-read").status == 200
    assert world["bob"].get("models", opened_key).status == 200


def test_a_stranger_may_open_what_it_writes_where_everybody_may_write(world, bucket):
    world["alice"].send("PUT", f"/{bucket}", "acl=", {"x-amz-acl": "public-read-write"})

    assert world["anyone"].put(bucket, "opened", b"1", x_amz_acl="public-read").status == 200
    assert [world[name].get(bucket, "opened").body for name in ("anyone", "bob", "alice")] == [b"1"] * 3
    assert world["anyone"].send("PUT", f"/{bucket}/opened", "acl=", {"x-amz-acl": "private"}).status == 403
    assert world["anyone"].put(bucket, "k", b"1", x_amz_acl="public-read").status == 200


def test_other_peoples_buckets_are_not_listed(world, bucket):
    world["alice"].send("PUT", f"/{bucket}", "acl=", {"x-amz-acl": "public-read-write"})

    def named(who):
        return bucket in world[who].send("GET", "/").body.decode()

    assert [named(who) for who in ("admin", "alice", "bob", "tenant")] == [True, True, False, False]


def test_pages_of_buckets(world):
    names = [f"page-{n}" for n in range(5)]
    for name in names:
        world["bob"].send("PUT", f"/{name}")
    seen, token = [], ""
    while True:
        after = f"&continuation-token={quote(token)}" if token else ""
        body = world["bob"].send("GET", "/", f"max-buckets=2&prefix=page-{after}").body.decode()
        seen.append([part.partition("</Name>")[0] for part in body.split("<Name>")[1:]])
        token = body.partition("<ContinuationToken>")[2].partition("</ContinuationToken>")[0]
        if not token:
            break

    assert seen == [names[:2], names[2:4], names[4:]]


@pytest.mark.parametrize("who", ["bob", "anyone"])
def test_what_is_not_there_is_told_to_those_who_may_list(world, bucket, who):
    caller, alice = world[who], world["alice"]
    assert caller.get(bucket, "none").status == 403
    alice.policy(bucket, allow(bucket, "s3:ListBucket", key="", StringLike={"s3:prefix": "public/*"}))

    assert [caller.get(bucket, key).code for key in ("public/a", "private/a")] == [
        "NoSuchKey",
        "AccessDenied",
    ]
    assert caller.send("GET", "/no-such-bucket-of-anybody").code == "NoSuchBucket"
    assert caller.send("GET", f"/{bucket}", "prefix=public/a").status == 200
    assert caller.send("GET", f"/{bucket}", "prefix=p").status == 403


def test_what_was_opened_is_open_after_a_restart(tmp_path):
    for number in range(2):
        store = StoreThread(tmp_path, anonymous=True)
        found = callers(store)
        if not number:
            found["alice"].send("PUT", "/kept", "", {"x-amz-acl": "public-read"})
            found["alice"].put("kept", "k", b"k")
            found["alice"].policy("kept", allow("kept", "s3:GetObject", "bob"))
            found["alice"].block("kept", "IgnorePublicAcls")
        assert [outcome(found[name], "kept") for name in ("bob", "anyone", "alice")] == ["gh", "", EVERYTHING]
        for caller in found.values():
            caller.__exit__()
        store.stop()


def test_an_object_that_changed_hands_meanwhile_is_not_read(tmp_path):
    """Who was let through for one object's list does not get the object that took its place."""
    index = Index(tmp_path / "meta.db")

    def run(apply):
        return index.commit(apply).result()

    def row(blob):
        return ObjectRow("models", "k", 1, "e", 0, (), (Extent(blob, 0, 1, 0),))

    run(lambda tx: create_bucket(tx, "models", "alice"))
    first = run(lambda tx: put_object(tx, row("b1")))
    run(lambda tx: put_object(tx, row("b2")))
    target = CopyTarget("models", "to", None, None)
    with pytest.raises(S3Error, match="ServiceUnavailable"):
        run(lambda tx: copy_object(tx, CopySource("models", "k", judged=first.seq), target))
    index.close()


@pytest.fixture
def counted(monkeypatch):
    """A store all of whose SQL is counted, and the count."""
    statements = []
    connect = Index._connect

    def traced(self):
        db = connect(self)
        db.set_trace_callback(statements.append)
        return db

    monkeypatch.setattr(Index, "_connect", traced)
    store = StoreThread(memory_folder())
    yield callers(store), statements
    store.stop()
    shutil.rmtree(store.settings.root)


def cost(statements, call):
    """The statements that a call costs once it has been made before."""
    call()
    statements.clear()
    assert call().status == 200
    return [text for text in statements if text.lstrip().startswith("SELECT")]


def test_a_bucket_without_policy_and_lists_costs_no_look(counted):
    """A reader by grant and an owner cause the same SQL as an administrator, for whom nothing is looked at."""
    found, statements = counted
    found["admin"].send("PUT", "/models")
    found["alice"].send("PUT", "/alices")

    def get(who, bucket):
        return cost(statements, lambda: found[who].get(bucket, "acme/k"))

    def put(who, bucket):
        body = b"1" * 20_000  # not a small one: those cost less where the body comes with the head
        return cost(statements, lambda: found[who].put(bucket, "acme/k", body))

    puts = [
        len(put(who, bucket))
        for who, bucket in (("admin", "models"), ("tenant", "models"), ("alice", "alices"))
    ]
    gets = [
        len(get(who, bucket))
        for who, bucket in (("admin", "models"), ("reader", "models"), ("alice", "alices"))
    ]
    with_policy = found["alice"].policy("alices", allow("alices", "s3:GetObject", "bob"))

    assert len(set(puts)) == 1
    assert len(set(gets)) == 1
    assert gets[0] <= 3  # the object, its bucket's versioning, its bytes
    assert with_policy.status == 204
    assert len(get("alice", "alices")) == gets[0]  # and a policy is read once, not each time
    for caller in found.values():
        caller.__exit__()
