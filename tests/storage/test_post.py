"""A browser's form, end to end: boto3 signs the policy, a plain HTTP client sends the form."""

import base64
import hashlib
import http.client
import shutil
import time
import zlib

import pytest
from botocore.exceptions import ClientError

from tests.storage.stores import ADMIN, READER, TENANT, Answer, StoreThread, boto, memory_folder

BOUNDARY = "nearfield-form"


def body_of(fields, data, file_name="local.bin"):
    lines = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{file_name}"\r\n\r\n'
    return "".join([*lines, head]).encode() + data + f"\r\n--{BOUNDARY}--\r\n".encode()


def post(store, bucket, body, **headers):
    line = http.client.HTTPConnection("127.0.0.1", store.port, timeout=60)
    named = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"} | headers
    line.request("POST", f"/{bucket}", body, named)
    got = line.getresponse()
    answer = Answer(got.status, {name.lower(): value for name, value in got.getheaders()}, got.read())
    line.close()
    return answer


def presigned(store, key, fields=None, conditions=None, *, signer=ADMIN, bucket="models", version="s3v4"):
    client = boto(store.endpoint(signer), signature_version=version)
    given = [{name: value} for name, value in (fields or {}).items()] if conditions is None else conditions
    made = client.generate_presigned_post(bucket, key, Fields=dict(fields or {}), Conditions=given)
    client.close()
    return made["fields"]


@pytest.mark.parametrize("size", [0, 5, 16 * 1024, 16 * 1024 + 1, 3_000_000])
def test_a_file_of_any_size(store, raw, size):
    data = bytes(range(251)) * (size // 251 + 1)
    data = data[:size]

    answer = post(store, "models", body_of(presigned(store, f"form/{size}"), data))

    assert answer.status == 204
    assert raw.get("models", f"form/{size}").body == data
    assert answer.headers["etag"] == f'"{hashlib.md5(data).hexdigest()}"'


def test_what_a_form_says_of_its_object(store, s3):
    tags = "<Tagging><TagSet><Tag><Key>k</Key><Value>v</Value></Tag></TagSet></Tagging>"
    fields = {"Content-Type": "text/x", "Cache-Control": "no-store", "x-amz-meta-who": "me", "tagging": tags}
    fields["x-amz-checksum-crc32"] = base64.b64encode(zlib.crc32(b"data").to_bytes(4, "big")).decode()
    fields |= {"success_action_status": "201", "acl": "private"}

    answer = post(store, "models", body_of(presigned(store, "form/said", fields), b"data"))
    got = s3.get_object(Bucket="models", Key="form/said", ChecksumMode="ENABLED")

    assert answer.status == 201
    assert b"<Key>form/said</Key>" in answer.body
    assert answer.headers["location"] == f"http://127.0.0.1:{store.port}/models/form/said"
    assert (got["ContentType"], got["CacheControl"], got["Metadata"]) == ("text/x", "no-store", {"who": "me"})
    assert got["ChecksumCRC32"] == fields["x-amz-checksum-crc32"]
    assert s3.get_object_tagging(Bucket="models", Key="form/said")["TagSet"] == [{"Key": "k", "Value": "v"}]


def test_the_file_names_the_key(store, raw):
    fields = presigned(store, "form/in/${filename}")

    assert post(store, "models", body_of(fields, b"1", "C:\\dir\\größe &.txt")).status == 204
    assert raw.get("models", "form/in/größe &.txt").body == b"1"


def test_a_redirect_says_what_was_stored(store):
    fields = {"success_action_redirect": "https://app.example/done?a=1"}

    answer = post(store, "models", body_of(presigned(store, "form/re", fields), b"1"))

    assert answer.status == 303
    etag = hashlib.md5(b"1").hexdigest()
    wanted = f"https://app.example/done?a=1&bucket=models&key=form%2Fre&etag=%22{etag}%22"
    assert answer.headers["location"] == wanted


@pytest.mark.parametrize("target", ["javascript:alert(1)", "//elsewhere", "http://a b", "http://[", "https:"])
def test_a_redirect_to_no_web_address_is_none(store, target):
    fields = {"success_action_redirect": target, "success_action_status": "200"}

    assert post(store, "models", body_of(presigned(store, "form/re", fields), b"1")).status == 200


def test_rights_are_those_of_the_signer(store, raw):
    assert post(store, "models", body_of(presigned(store, "acme/form", signer=TENANT), b"1")).status == 204
    for key, signer in (("other/form", TENANT), ("acme/form2", READER)):
        answer = post(store, "models", body_of(presigned(store, key, signer=signer), b"1"))
        assert (answer.status, answer.code) == (403, "AccessDenied")
        assert raw.get("models", key).status == 404


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"key": "elsewhere"}, "AccessDenied"),
        ({"x-amz-meta-more": "1"}, "AccessDenied"),
        ({"x-amz-signature": "0" * 64}, "SignatureDoesNotMatch"),
        ({"x-amz-credential": "NFADMIN/20200101/us-east-1/s3/aws4_request"}, "InvalidArgument"),
        ({"x-amz-credential": "nobody/20200101/us-east-1/s3/aws4_request"}, "InvalidArgument"),
        ({"x-amz-credential": "NFADMIN"}, "InvalidArgument"),
        ({"x-amz-date": "yesterday"}, "InvalidArgument"),
        ({"x-amz-algorithm": "AWS4-NONE"}, "InvalidArgument"),
        ({"x-amz-signature": None}, "InvalidArgument"),
        ({"policy": None}, "InvalidArgument"),
        ({"policy": "e30="}, "SignatureDoesNotMatch"),
        ({"policy": None, "x-amz-signature": None, "x-amz-credential": None}, "AccessDenied"),
        ({"key": None}, "AccessDenied"),
    ],
)
def test_a_form_that_was_changed_is_refused(store, raw, change, code):
    fields = presigned(store, "form/changed") | change
    kept = {name: value for name, value in fields.items() if value is not None}

    assert post(store, "models", body_of(kept, b"1")).code == code
    assert raw.get("models", "form/changed").status == 404


def test_every_byte_of_a_policy_is_signed(store):
    fields = presigned(store, "form/bytes")
    policy = fields["policy"]

    for at in range(0, len(policy), 7):
        other = "A" if policy[at] != "A" else "B"
        changed = fields | {"policy": policy[:at] + other + policy[at + 1 :]}
        assert post(store, "models", body_of(changed, b"1")).code == "SignatureDoesNotMatch"


def test_a_form_for_another_bucket_is_refused(store, bucket):
    assert post(store, bucket, body_of(presigned(store, "k"), b"1")).code == "AccessDenied"


@pytest.mark.parametrize(
    ("size", "code"), [(4, "EntityTooSmall"), (5, ""), (20_000, ""), (20_001, "EntityTooLarge")]
)
def test_the_policy_bounds_the_file(store, raw, size, code):
    fields = presigned(store, f"form/range{size}", conditions=[["content-length-range", 5, 20_000]])

    answer = post(store, "models", body_of(fields, b"x" * size))

    assert answer.code == code
    assert raw.get("models", f"form/range{size}").status == (404 if code else 200)


def test_what_is_no_form_upload(store, raw):
    fields = presigned(store, "form/no")
    whole = body_of(fields, b"data")
    no_file = (
        whole[: whole.index(b'name="file"')] + b'name="other"\r\n\r\nx\r\n--' + BOUNDARY.encode() + b"--\r\n"
    )

    assert post(store, "models", whole[:-20]).code == "IncompleteBody"
    assert post(store, "models", no_file).code == "InvalidArgument"
    assert (
        post(store, "models", whole + b"", **{"content-type": "multipart/form-data"}).code
        == "MalformedPOSTRequest"
    )
    assert post(store, "models/key", whole).code == "MethodNotAllowed"
    assert (
        post(store, "nosuchbucket", body_of(presigned(store, "k", bucket="nosuchbucket"), b"")).code
        == "NoSuchBucket"
    )
    assert raw.send("POST", "/models").status == 412
    assert post(store, "models", b"x", **{"content-type": "text/plain"}).code == "AccessDenied"
    twice = body_of(fields, b"").replace(b"--\r\n", b"\r\n") + body_of(fields, b"")
    assert post(store, "models", twice).status == 204  # what follows the file is no field
    assert raw.get("models", "form/no").body == b""


def test_a_field_cannot_write_a_header_line(store):
    for value in ("a\r\nx-evil: 1", "größe", "a\0"):
        answer = post(store, "models", body_of(presigned(store, "k", {"x-amz-meta-a": value}), b"1"))
        assert answer.code == "InvalidArgument"


def test_a_checksum_that_differs_stores_nothing(store, raw):
    fields = presigned(store, "form/sum") | {"x-amz-checksum-crc32": "AAAAAA=="}

    assert post(store, "models", body_of(fields, b"x" * 100_000)).code == "BadDigest"
    assert raw.get("models", "form/sum").status == 404
    for _ in range(2000):  # it is undone in a thread, after the answer
        if not any((store.settings.root / "tmp").iterdir()):
            break
        time.sleep(0.02)
    assert not any((store.settings.root / "tmp").iterdir())


def test_signature_version_2_only_behind_its_switch(store):
    old = StoreThread(memory_folder(), sigv2=True)
    client = boto(old.endpoint())
    client.create_bucket(Bucket="models")
    try:
        fields = presigned(old, "k", version="s3")
        assert post(old, "models", body_of(fields, b"1")).status == 204
        assert (
            post(old, "models", body_of(fields | {"signature": "AAAA"}, b"1")).code == "SignatureDoesNotMatch"
        )
        assert (
            post(old, "models", body_of(fields | {"AWSAccessKeyId": "nobody"}, b"1")).code
            == "InvalidAccessKeyId"
        )
        assert client.get_object(Bucket="models", Key="k")["Body"].read() == b"1"
    finally:
        client.close()
        old.stop()
        shutil.rmtree(old.settings.root)
    refused = post(store, "models", body_of(presigned(store, "k", version="s3"), b"1"))
    assert refused.code == "NotImplemented"
    assert b"sigv2" in refused.body


def test_a_file_after_which_the_client_goes_leaves_nothing(store, s3):
    whole = body_of(presigned(store, "form/gone"), b"x" * 400_000)
    line = http.client.HTTPConnection("127.0.0.1", store.port, timeout=60)
    line.putrequest("POST", "/models")
    line.putheader("content-type", f"multipart/form-data; boundary={BOUNDARY}")
    line.putheader("content-length", str(len(whole)))
    line.endheaders(whole[:300_000])
    line.close()

    with pytest.raises(ClientError, match="404"):
        s3.head_object(Bucket="models", Key="form/gone")
