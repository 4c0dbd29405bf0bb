"""Who may do what: grants, ownership, policies, lists and the public access block, put together and over the wire."""

import json
import shutil
import subprocess
import sys
from urllib.parse import quote

import pytest

from storage.auth.key import AccessKey, Grant
from storage.client.sdk import Endpoint
from storage.fault import S3Error
from storage.index.buckets import create_bucket
from storage.index.copies import CopySource, CopyTarget, copy_object
from storage.index.database import Index
from storage.index.objects import put_object
from storage.index.rows import Extent, ObjectRow
from tests.storage.stores import ADMIN, ALICE, BOB, READER, TENANT, Raw, StoreThread, boto, memory_folder
from tests.storage.test_post import BOUNDARY, body_of

NOBODY = AccessKey("NFNOBODY", 1, (), user="nobody")
ALICES_READER = AccessKey("NFALICE2", 1, (Grant.parse("elsewhere::read"),), user="alice")


class Caller(Raw):
    """Somebody with a key, or with none."""

    def __init__(self, store, key):
        super().__init__(store.endpoint(key or ADMIN))
        self._key = key

    def send(self, method, path, query="", headers=None, body=b"", **signing):
        if self._key is not None:
            return super().send(method, path, query, headers, body, **signing)
        return self.send_as_is(method, path, query, {"host": self.endpoint.netloc, **(headers or {})}, body)

    def policy(self, bucket, *statements):
        document = {"Version": "2012-10-17", "Statement": statements}
        return self.send("PUT", f"/{bucket}", "policy=", {}, json.dumps(document).encode())

    def block(self, bucket, *switches):
        on = "".join(f"<{name}>true</{name}>" for name in switches)
        body = f"<PublicAccessBlockConfiguration>{on}</PublicAccessBlockConfiguration>"
        return self.send("PUT", f"/{bucket}", "publicAccessBlock=", {}, body.encode())


def callers(store):
    keys = {"admin": ADMIN, "alice": ALICE, "bob": BOB, "tenant": TENANT, "reader": READER, "anyone": None}
    keys |= {"nobody": NOBODY, "alices_reader": ALICES_READER}
    return {name: Caller(store, key) for name, key in keys.items()}


@pytest.fixture(scope="module", params=[True], ids=["open"])
def world(request):
    """Everybody, at a store that lets strangers in."""
    patch = pytest.MonkeyPatch()
    keys = (ADMIN, TENANT, READER, ALICE, BOB, NOBODY, ALICES_READER)
    patch.setattr("tests.storage.stores.KEYS", keys)
    store = StoreThread(memory_folder(), anonymous=request.param)
    found = callers(store)
    assert found["admin"].send("PUT", "/models").status == 200
    yield found
    for caller in found.values():
        caller.__exit__()
    store.stop()
    shutil.rmtree(store.settings.root)
    patch.undo()


@pytest.fixture
def bucket(world, request):
    """A bucket of alice's with two objects."""
    name = f"a{abs(hash(request.node.nodeid)) % 10**12}"
    assert world["alice"].send("PUT", f"/{name}").status == 200
    for key in ("k", "other"):
        assert world["alice"].put(name, key, key.encode()).status == 200
    return name


def allow(bucket, action, who="*", key="*", effect="Allow", **condition):
    resource = f"arn:aws:s3:::{bucket}" + (f"/{key}" if key else "")
    plain = {"Effect": effect, "Principal": who if who == "*" else {"AWS": who}, "Action": action}
    return plain | {"Resource": resource} | ({"Condition": condition} if condition else {})


def outcome(caller, bucket):
    """What may be done with alice's bucket: a letter for each thing that was not refused."""
    tried = {
        "g": caller.get(bucket, "k"),
        "h": caller.send("HEAD", f"/{bucket}/k"),
        "l": caller.send("GET", f"/{bucket}", "list-type=2"),
        "b": caller.send("HEAD", f"/{bucket}"),
        "p": caller.put(bucket, "other", b"x"),
        "d": caller.delete(bucket, "gone"),
        "m": caller.send("POST", f"/{bucket}/m", "uploads="),
        "a": caller.send("GET", f"/{bucket}/k", "acl="),
        "t": caller.send("GET", f"/{bucket}/k", "tagging="),
        "A": caller.send("GET", f"/{bucket}", "acl="),
        "P": caller.send("GET", f"/{bucket}", "policyStatus="),
    }
    assert {answer.status for answer in tried.values()} <= {200, 204, 403}
    return "".join(letter for letter, answer in tried.items() if answer.status != 403)


EVERYTHING = "ghlbpdmatAP"


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


def test_a_policy_lends_and_denies(world, bucket):
    alice = world["alice"]
    alice.policy(
        bucket,
        allow(bucket, "s3:GetObject"),
        allow(bucket, "s3:ListBucket", "bob", key=""),
        allow(bucket, "s3:GetObject", "arn:aws:iam:::user/nobody", effect="Deny"),
    )
    found = {name: outcome(world[name], bucket) for name in ("anyone", "tenant", "bob", "nobody", "admin")}

    assert found == {"anyone": "gh", "tenant": "gh", "bob": "ghlb", "nobody": "", "admin": EVERYTHING}
    assert alice.send("DELETE", f"/{bucket}", "policy=").status == 204
    assert outcome(world["bob"], bucket) == ""


def test_a_denial_outdoes_a_grant_a_list_and_ownership(world, bucket):
    world["alice"].send("PUT", f"/{bucket}/k", "acl=", {"x-amz-acl": "public-read"})
    world["alice"].policy(bucket, allow(bucket, "s3:*", effect="Deny"))
    world["admin"].put("models", "acme/denied", b"1")
    world["admin"].policy("models", allow("models", "s3:GetObject", key="acme/denied", effect="Deny"))

    assert world["alice"].get(bucket, "k").status == 403
    assert world["anyone"].get(bucket, "k").status == 403
    assert world["admin"].get(bucket, "k").status == 200
    for name, status in (("tenant", 403), ("reader", 403), ("admin", 200)):
        assert world[name].get("models", "acme/denied").status == status
    assert world["tenant"].put("models", "acme/denied", b"2").status == 200
    world["admin"].send("DELETE", "/models", "policy=")
    assert world["reader"].get("models", "acme/denied").status == 200


def test_an_owner_cannot_lock_itself_out(world, bucket):
    everything = [allow(bucket, "*", key=key, effect="Deny") for key in ("", "*")]
    assert world["alice"].policy(bucket, *everything).status == 204

    assert outcome(world["alice"], bucket) == ""
    assert world["alice"].send("GET", f"/{bucket}", "policy=").status == 200
    assert world["bob"].send("DELETE", f"/{bucket}", "policy=").status == 403
    assert world["alice"].send("DELETE", f"/{bucket}", "policy=").status == 204
    assert outcome(world["alice"], bucket) == EVERYTHING


def test_a_policy_may_lend_the_settings_but_not_to_a_stranger(world, bucket):
    world["alice"].policy(bucket, *(allow(bucket, "*", key=key) for key in ("", "*")))

    assert outcome(world["bob"], bucket) == EVERYTHING
    assert outcome(world["anyone"], bucket) == "ghlbpdmat"
    for method, query, body in (
        ("PUT", "policy=", b"{}"),
        ("DELETE", "policy=", b""),
        ("PUT", "acl=", b""),
        ("PUT", "versioning=", b""),
        ("DELETE", "publicAccessBlock=", b""),
        ("DELETE", "", b""),
        ("GET", "location=", b""),
    ):
        answer = world["anyone"].send(method, f"/{bucket}", query, {}, body)
        assert (answer.status, answer.code) == (403, "AccessDenied")


def test_no_policy_lets_anybody_make_buckets_or_read_the_feed(world, bucket):
    world["alice"].policy(bucket, allow(bucket, "*", key=""), allow(bucket, "*"))

    for name in ("anyone", "tenant", "nobody"):
        assert world[name].send("PUT", "/made-by-policy").status == 403
        assert world[name].send("GET", "/", f"nearfield-changes=&bucket={bucket}").status == 403
    assert world["anyone"].send("GET", "/").status == 403


def test_strangers_are_not_told_what_there_is(world, bucket):
    for method, path, query in (
        ("POST", f"/{bucket}/k", "restore="),
        ("PUT", f"/{bucket}", "replication="),
        ("PATCH", "/", ""),
    ):
        assert world["anyone"].send(method, path, query).code == "AccessDenied"
        assert world["alice"].send(method, path, query).code == "NotImplemented"


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


def test_each_key_of_a_delete_is_judged(world, bucket):
    world["alice"].policy(bucket, allow(bucket, "s3:DeleteObject", "bob", key="o*"))
    body = b"<Delete><Object><Key>k</Key></Object><Object><Key>other</Key></Object></Delete>"
    answer = world["bob"].send("POST", f"/{bucket}", "delete=", {}, body)

    assert answer.status == 200
    assert answer.body.decode().count("AccessDenied") == 1
    assert world["alice"].get(bucket, "k").status == 200
    assert world["alice"].get(bucket, "other").status == 404
    assert world["anyone"].send("POST", f"/{bucket}", "delete=", {}, body).body.count(b"AccessDenied") == 2


def test_versions_have_actions_of_their_own(world, bucket):
    world["alice"].send(
        "PUT",
        f"/{bucket}",
        "versioning=",
        {},
        b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>",
    )
    version = world["alice"].put(bucket, "k", b"2").headers["x-amz-version-id"]
    world["alice"].policy(bucket, allow(bucket, "s3:GetObject", "bob"))
    assert world["bob"].get(bucket, "k").status == 200
    assert world["bob"].send("GET", f"/{bucket}/k", f"versionId={version}").status == 403
    world["alice"].policy(bucket, allow(bucket, "s3:GetObjectVersion", "bob"))
    assert world["bob"].get(bucket, "k").status == 403
    assert world["bob"].send("GET", f"/{bucket}/k", f"versionId={version}").body == b"2"


def test_tags_that_an_object_has_may_decide(world, bucket):
    tagged = {"StringEquals": {"s3:ExistingObjectTag/access": "open"}}
    world["alice"].put(bucket, "k", b"1", x_amz_tagging="access=open")
    world["alice"].put(bucket, "other", b"1", x_amz_tagging="access=closed")
    world["alice"].policy(bucket, allow(bucket, "s3:GetObject", "bob", **tagged))

    assert [world["bob"].get(bucket, key).status for key in ("k", "other", "none")] == [200, 403, 403]
    world["alice"].put(bucket, "k", b"2")
    assert world["bob"].get(bucket, "k").status == 403


def test_tags_that_a_request_brings_may_decide(world, bucket):
    wrong = {"StringNotEquals": {"s3:RequestObjectTag/team": "bob"}}
    world["alice"].policy(
        bucket,
        allow(bucket, ["s3:PutObject", "s3:PutObjectTagging"], "bob"),
        allow(bucket, "s3:PutObject*", "bob", effect="Deny", **wrong),
    )

    def tagging(value):
        tag = f"<Tagging><TagSet><Tag><Key>team</Key><Value>{value}</Value></Tag></TagSet></Tagging>"
        return world["bob"].send("PUT", f"/{bucket}/k", "tagging=", {}, tag.encode()).status

    assert world["bob"].put(bucket, "new", b"1").status == 403
    assert world["bob"].put(bucket, "new", b"1", x_amz_tagging="team=eve").status == 403
    assert world["bob"].put(bucket, "new", b"1", x_amz_tagging="team=bob").status == 200
    assert tagging("eve") == 403


def test_a_denial_of_tags_in_a_body_is_seen(world, bucket):
    eve = {"StringEquals": {"s3:RequestObjectTag/team": "eve"}}
    world["alice"].policy(
        bucket,
        allow(bucket, "s3:PutObjectTagging", "bob"),
        allow(bucket, "s3:PutObjectTagging", "bob", effect="Deny", **eve),
    )
    answers = []
    for value in ("bob", "eve"):
        tag = f"<Tagging><TagSet><Tag><Key>team</Key><Value>{value}</Value></Tag></TagSet></Tagging>"
        answers.append(world["bob"].send("PUT", f"/{bucket}/k", "tagging=", {}, tag.encode()).status)

    assert answers == [200, 403]
    assert b"<Value>bob</Value>" in world["alice"].send("GET", f"/{bucket}/k", "tagging=").body


@pytest.mark.parametrize("written", ["{}/private/k", "/{}/private/k", "{}/%70rivate/k", "{}%2Fprivate%2Fk"])
def test_however_a_source_is_written_it_is_the_same(world, bucket, written):
    private = {"StringLike": {"s3:x-amz-copy-source": f"{bucket}/private/*"}}
    world["alice"].put(bucket, "private/k", b"1")
    world["alice"].policy(
        bucket,
        allow(bucket, ["s3:GetObject", "s3:PutObject"], "bob"),
        allow(bucket, "s3:PutObject", effect="Deny", **private),
    )
    copy = world["bob"].send("PUT", f"/{bucket}/to", "", {"x-amz-copy-source": written.format(bucket)})

    assert copy.status == 403
    other = world["bob"].send("PUT", f"/{bucket}/to", "", {"x-amz-copy-source": f"{bucket}/k"})
    assert other.status == 200


def test_the_source_of_a_copy_is_read_by_right(world, bucket):
    world["bob"].send("PUT", "/bobs-copies")
    upload = world["bob"].create_upload("bobs-copies", "parts")
    source = {"x-amz-copy-source": f"{bucket}/k"}

    def copies():
        part = f"partNumber=1&uploadId={upload}"
        return (
            world["bob"].send("PUT", "/bobs-copies/k", "", source).status,
            world["bob"].send("PUT", "/bobs-copies/parts", part, source).status,
        )

    assert copies() == (403, 403)
    world["alice"].send("PUT", f"/{bucket}/k", "acl=", {"x-amz-grant-read": "id=bob"})
    assert copies() == (200, 200)
    source["x-amz-source-expected-bucket-owner"] = "bob"
    assert copies() == (403, 403)


def test_a_bucket_that_is_not_whose_it_should_be(world, bucket):
    for name in ("alice", "admin"):
        for expected, status in (("alice", 200), ("bob", 403)):
            headers = {"x-amz-expected-bucket-owner": expected}
            assert world[name].send("GET", f"/{bucket}/k", "", headers).status == status
            assert world[name].send("PUT", f"/{bucket}/e", "", headers, b"1").status == status
            assert world[name].send("GET", f"/{bucket}", "", headers).status == status
    assert world["alice"].get(bucket, "k").status == 200


def test_where_a_request_comes_from_may_decide(world, bucket):
    here, there = ({"IpAddress": {"aws:SourceIp": net}} for net in ("127.0.0.0/8", "10.0.0.0/8"))
    world["alice"].policy(
        bucket,
        allow(bucket, "s3:GetObject", key="k", **here),
        allow(bucket, "s3:GetObject", key="other", **there),
    )

    assert [world["anyone"].get(bucket, key).status for key in ("k", "other")] == [200, 403]


def test_public_lists_may_be_blocked(world, bucket):
    alice = world["alice"]
    assert alice.block(bucket, "BlockPublicAcls").status == 200
    refused = [
        alice.send("PUT", f"/{bucket}", "acl=", {"x-amz-acl": "public-read"}),
        alice.send("PUT", f"/{bucket}/k", "acl=", {"x-amz-acl": "authenticated-read"}),
        alice.put(bucket, "new", b"1", x_amz_acl="public-read-write"),
        alice.send("POST", f"/{bucket}/new", "uploads=", {"x-amz-acl": "public-read"}),
        alice.send(
            "PUT", f"/{bucket}/new", "", {"x-amz-copy-source": f"{bucket}/k", "x-amz-acl": "public-read"}
        ),
    ]

    assert [answer.code for answer in refused] == ["AccessDenied"] * 5
    assert alice.get(bucket, "new").status == 404
    assert alice.send("PUT", f"/{bucket}/k", "acl=", {"x-amz-grant-read": "id=bob"}).status == 200


def test_public_lists_may_be_ignored(world, bucket):
    alice = world["alice"]
    alice.send("PUT", f"/{bucket}", "acl=", {"x-amz-acl": "public-read-write"})
    alice.put(bucket, "k", b"k", x_amz_acl="public-read")
    status = [alice.send("GET", f"/{bucket}", "policyStatus=").body.count(b"true")]
    before = [outcome(world[name], bucket) for name in ("anyone", "bob")]
    alice.block(bucket, "IgnorePublicAcls")

    assert before == ["ghlbpdm", "ghlbpdm"]
    assert [outcome(world[name], bucket) for name in ("anyone", "bob", "alice")] == ["", "", EVERYTHING]
    status.append(alice.send("GET", f"/{bucket}", "policyStatus=").body.count(b"true"))
    assert status == [1, 0]
    alice.send("DELETE", f"/{bucket}", "publicAccessBlock=")
    assert [outcome(world[name], bucket) for name in ("anyone", "bob")] == before


def test_public_policies_may_be_blocked(world, bucket):
    world["alice"].block(bucket, "BlockPublicPolicy")
    public = world["alice"].policy(bucket, allow(bucket, "s3:GetObject"))
    named = world["alice"].policy(bucket, allow(bucket, "s3:GetObject", "bob"))

    assert (public.code, named.status) == ("AccessDenied", 204)
    assert [world[name].get(bucket, "k").status for name in ("anyone", "bob")] == [403, 200]


def test_public_policies_may_be_restricted(world, bucket):
    """Then even who is named in them is kept out: the owner should write one that is not public."""
    alice = world["alice"]
    alice.policy(bucket, allow(bucket, "s3:GetObject"), allow(bucket, "s3:ListBucket", "bob", key=""))
    before = [outcome(world[name], bucket) for name in ("anyone", "bob")]
    alice.block(bucket, "RestrictPublicBuckets")

    assert before == ["gh", "ghlb"]
    assert [outcome(world[name], bucket) for name in ("anyone", "bob", "alice")] == ["", "", EVERYTHING]


def test_the_block_is_given_back(world, bucket):
    alice = world["alice"]
    none = alice.send("GET", f"/{bucket}", "publicAccessBlock=")
    alice.block(bucket, "BlockPublicAcls", "RestrictPublicBuckets")
    some = alice.send("GET", f"/{bucket}", "publicAccessBlock=").body.decode()
    bad = alice.send(
        "PUT",
        f"/{bucket}",
        "publicAccessBlock=",
        {},
        b"<PublicAccessBlockConfiguration><BlockPublicAcls>maybe</BlockPublicAcls></PublicAccessBlockConfiguration>",
    )

    assert none.code == "NoSuchPublicAccessBlockConfiguration"
    assert (some.count("true"), some.count("false")) == (2, 2)
    assert bad.code == "MalformedXML"


def test_a_policy_is_given_back_as_it_was_sent(world, bucket):
    raw = json.dumps(
        {"Version": "2012-10-17", "Statement": [allow(bucket, "s3:GetObject")]}, indent=3
    ).encode()
    none = world["alice"].send("GET", f"/{bucket}", "policy=")
    put = world["alice"].send("PUT", f"/{bucket}", "policy=", {}, raw)
    bad = world["alice"].send("PUT", f"/{bucket}", "policy=", {}, b"{")

    assert (none.code, put.status, bad.code) == ("NoSuchBucketPolicy", 204, "MalformedPolicy")
    assert world["alice"].send("GET", f"/{bucket}", "policy=").body == raw
    large = world["alice"].send("PUT", f"/{bucket}", "policy=", {}, b" " * 30_000)
    assert 400 <= large.status < 500


def test_a_broken_signature_makes_nobody_a_stranger(world, bucket):
    world["alice"].policy(bucket, allow(bucket, "s3:GetObject"))
    host = {"host": world["anyone"].endpoint.netloc}
    anyone = world["anyone"]
    tries = [
        anyone.send_as_is(
            "GET", f"/{bucket}/k", "", host | {"authorization": "AWS4-HMAC-SHA256 Credential=x"}
        ),
        anyone.send_as_is("GET", f"/{bucket}/k", "", host | {"authorization": "AWS NFALICE:x"}),
        anyone.send_as_is("GET", f"/{bucket}/k", "", host | {"authorization": ""}),
        anyone.send_as_is("GET", f"/{bucket}/k", "X-Amz-Signature=00", host),
        anyone.send_as_is("GET", f"/{bucket}/k", "X-Amz-Credential=a", host),
        anyone.send_as_is("GET", f"/{bucket}/k", "x-amz-algorithm=AWS4-HMAC-SHA256", host),
        anyone.send_as_is("GET", f"/{bucket}/k", "AWSAccessKeyId=NFALICE&Signature=x&Expires=9", host),
        anyone.send_as_is("GET", f"/{bucket}/k", "Signature=x", host),
    ]

    assert all(answer.status >= 400 and answer.body != b"k" for answer in tries)
    assert anyone.get(bucket, "k").body == b"k"


def test_a_strangers_body_is_checked_by_what_comes_with_it(world, bucket):
    world["alice"].send("PUT", f"/{bucket}", "acl=", {"x-amz-acl": "public-read-write"})
    anyone = world["anyone"]
    signed = {
        "x-amz-content-sha256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
        "x-amz-decoded-content-length": "1",
    }

    assert anyone.put(bucket, "s", b"1", x_amz_content_sha256="0" * 64).code == "XAmzContentSHA256Mismatch"
    assert anyone.put(bucket, "s", b"1", x_amz_checksum_crc32="AAAAAA==").code == "BadDigest"
    assert anyone.send("PUT", f"/{bucket}/s", "", signed, b"1;chunk-signature=x").status == 403
    assert world["alice"].get(bucket, "s").status == 404
    assert anyone.put(bucket, "s", b"1").status == 200


def test_strangers_stay_out_of_a_store_that_was_not_told_otherwise():
    """Whatever the lists and the policy say. Those with keys are let in all the same."""
    store = StoreThread(memory_folder())
    found = callers(store)
    found["alice"].send("PUT", "/open", "", {"x-amz-acl": "public-read-write"})
    found["alice"].put("open", "k", b"k", x_amz_acl="public-read-write")
    found["alice"].policy("open", *(allow("open", "*", key=key) for key in ("", "*")))

    assert outcome(found["anyone"], "open") == ""
    assert found["anyone"].get("open", "none").code == "AccessDenied"
    assert found["anyone"].get("no-such-bucket", "k").code == "AccessDenied"
    assert outcome(found["bob"], "open") == EVERYTHING
    for caller in found.values():
        caller.__exit__()
    store.stop()
    shutil.rmtree(store.settings.root)


@pytest.mark.parametrize(("flags", "code"), [((), "AccessDenied"), (("--anonymous",), "NoSuchBucket")])
def test_the_switch_of_a_store_alone(tmp_path, flags, code):
    command = [sys.executable, "-m", "storage", str(tmp_path), "--port", "0", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[1]
        with Raw(Endpoint(url, "", "")) as raw:
            answer = raw.send_as_is("GET", "/nobodys/k", "", {"host": raw.endpoint.netloc})
        process.terminate()

    assert answer.code == code


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


def form(world, bucket, fields):
    """What a browser's form is answered that is sent without any header of a signature."""
    body = body_of(fields, b"1")
    content_type = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
    return world["anyone"].send("POST", f"/{bucket}", "", content_type, body)


def signed_form(world, bucket, who, key, **fields):
    client = boto(world[who].endpoint, signature_version="s3v4")
    conditions = [{name: value} for name, value in fields.items()]
    made = client.generate_presigned_post(bucket, key, Fields=dict(fields), Conditions=conditions)
    client.close()
    return form(world, bucket, made["fields"])


def test_a_form_is_let_through_as_a_put_is(world, bucket):
    assert signed_form(world, bucket, "bob", "bobs").status == 403
    assert signed_form(world, bucket, "alice", "alices").status == 204
    world["alice"].policy(
        bucket,
        allow(bucket, "s3:PutObject", "bob"),
        allow(bucket, "s3:PutObject", key="secret/*", effect="Deny"),
    )

    assert signed_form(world, bucket, "bob", "bobs").status == 204
    assert [signed_form(world, bucket, who, "secret/k").status for who in ("bob", "alice")] == [403, 403]
    assert [world[who].get(bucket, "bobs").status for who in ("bob", "alice")] == [200, 403]
    world["alice"].block(bucket, "BlockPublicAcls")
    assert signed_form(world, bucket, "alice", "opened", acl="public-read").status == 403


def test_a_form_of_a_strangers_goes_where_everybody_may_write(world, bucket):
    assert form(world, bucket, {"key": "f"}).code == "AccessDenied"
    assert form(world, "no-bucket-of-anybody", {"key": "f"}).status in {403, 404}
    world["alice"].send("PUT", f"/{bucket}", "acl=", {"x-amz-acl": "public-read-write"})

    assert form(world, bucket, {"key": "f", "acl": "public-read"}).status == 204
    assert world["bob"].get(bucket, "f").body == b"1"
    for broken in ("policy", "signature", "AWSAccessKeyId", "x-amz-signature", "X-Amz-Credential"):
        assert form(world, bucket, {"key": "broken", broken: "x"}).status >= 400
    assert world["alice"].get(bucket, "broken").status == 404


def test_a_form_of_a_strangers_is_refused_unless_the_store_was_told_otherwise():
    store = StoreThread(memory_folder())
    found = callers(store)
    found["alice"].send("PUT", "/open", "", {"x-amz-acl": "public-read-write"})

    assert form(found, "open", {"key": "f"}).code == "AccessDenied"
    assert found["alice"].get("open", "f").status == 404
    for caller in found.values():
        caller.__exit__()
    store.stop()
    shutil.rmtree(store.settings.root)
