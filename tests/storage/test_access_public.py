"""Strangers over the wire: the public access block, forms, and stores that let nobody in unsigned."""

import shutil
import subprocess
import sys

import pytest

from storage.client.sdk import Endpoint
from tests.storage.people import EVERYTHING, allow, bucket_of_alice, callers, outcome
from tests.storage.stores import Raw, StoreThread, boto, memory_folder
from tests.storage.test_post import BOUNDARY, body_of


@pytest.fixture
def bucket(world, request):
    return bucket_of_alice(world, request)


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


def test_strangers_are_not_told_what_there_is(world, bucket):
    for method, path, query in (
        ("POST", f"/{bucket}/k", "restore="),
        ("PUT", f"/{bucket}", "replication="),
        ("PATCH", "/", ""),
    ):
        assert world["anyone"].send(method, path, query).code == "AccessDenied"
        assert world["alice"].send(method, path, query).code == "NotImplemented"
