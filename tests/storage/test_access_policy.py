"""Bucket policies over the wire: who is lent what, who is denied, by which words of a request."""

import json

import pytest

from tests.storage.people import EVERYTHING, allow, bucket_of_alice, outcome


@pytest.fixture
def bucket(world, request):
    return bucket_of_alice(world, request)


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
