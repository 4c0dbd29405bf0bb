"""Signature Version 2 of presigned queries, made by boto3 as it does by default for an address of one's own."""

import http.client
import shutil
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from storage.auth.canonical import Signable
from storage.auth.sigv2 import adopted, string_to_sign
from tests.storage.stores import TENANT, Answer, StoreThread, boto, memory_folder


@pytest.fixture(scope="module")
def old():
    store = StoreThread(memory_folder(), sigv2=True)
    client = boto(store.endpoint())
    client.create_bucket(Bucket="models")
    client.put_object(Bucket="models", Key="acme/a b+é", Body=b"data")
    client.close()
    yield store
    store.stop()
    shutil.rmtree(store.settings.root)


def presign(store, operation, params, signer=None, **more):
    client = boto(store.endpoint(*([signer] if signer else [])), signature_version="s3")
    url = client.generate_presigned_url(operation, params, **more)
    client.close()
    return url


def send(url, method="GET", body=None, **headers):
    parts = urlsplit(url)
    line = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
    line.request(method, f"{parts.path}?{parts.query}", body, headers)
    got = line.getresponse()
    answer = Answer(got.status, {name.lower(): value for name, value in got.getheaders()}, got.read())
    line.close()
    return answer


GET = ("get_object", {"Bucket": "models", "Key": "acme/a b+é"})


def test_boto3_makes_version_2_by_default(old):
    """The reason that the switch exists."""
    client = boto(old.endpoint())
    assert "AWSAccessKeyId=" in client.generate_presigned_url(*GET)
    client.close()


def test_reads(old):
    ranged = {"ResponseContentType": "text/x", "ResponseContentDisposition": 'attachment; filename="a b"'}

    assert send(presign(old, *GET)).body == b"data"
    shown = send(presign(old, GET[0], GET[1] | ranged))
    assert (shown.headers["content-type"], shown.body) == ("text/x", b"data")
    assert send(presign(old, "list_objects_v2", {"Bucket": "models", "Prefix": "acme/"})).status == 200
    assert send(presign(old, "get_bucket_location", {"Bucket": "models"})).status == 200


def test_writes_take_what_the_signer_said(old):
    said = {"Metadata": {"who": "me"}, "ContentType": "text/y"}
    url = presign(old, "put_object", {"Bucket": "models", "Key": "put"} | said)

    assert send(url, "PUT", b"1").status == 200
    got = send(presign(old, "get_object", {"Bucket": "models", "Key": "put"}))
    assert (got.headers["x-amz-meta-who"], got.headers["content-type"]) == ("me", "text/y")


def test_multipart(old):
    url = presign(old, "create_multipart_upload", {"Bucket": "models", "Key": "m"})
    upload = send(url, "POST").body.partition(b"<UploadId>")[2].partition(b"</UploadId>")[0].decode()
    part = {"Bucket": "models", "Key": "m", "UploadId": upload, "PartNumber": 1}

    assert send(presign(old, "upload_part", part), "PUT", b"x").status == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE", "HEAD"])
def test_the_method_is_signed(old, method):
    assert send(presign(old, *GET), method).status == 403


def test_what_is_covered_cannot_be_changed(old):
    url = presign(old, *GET)

    assert send(url.replace("acme", "acmf")).code == "SignatureDoesNotMatch"
    for more in ("acl=", "tagging=", "versionId=null", "x-amz-meta-a=1", "response-content-type=text/html"):
        assert send(f"{url}&{more}").code == "SignatureDoesNotMatch"
    assert send(url, **{"x-amz-meta-a": "1"}).code == "SignatureDoesNotMatch"


@pytest.mark.parametrize("more", ["attributes=", "nearfield-changes=", "publicAccessBlock=", "whatever=1"])
def test_what_is_not_covered_is_refused(old, more):
    assert send(f"{presign(old, *GET)}&{more}").code == "AccessDenied"


def test_every_byte_of_the_claim_counts(old):
    url = presign(old, *GET)
    query = dict(parse_qsl(urlsplit(url).query))
    for name in ("Signature", "AWSAccessKeyId", "Expires"):
        for at in range(len(query[name])):
            value = query[name]
            other = value[:at] + ("1" if value[at] != "1" else "2") + value[at + 1 :]
            changed = urlencode(query | {name: other})
            assert send(url.partition("?")[0] + "?" + changed).status == 403


def test_it_expires(old):
    assert send(presign(old, *GET, ExpiresIn=-1)).code == "AccessDenied"
    assert send(presign(old, *GET, ExpiresIn=60)).status == 200


@pytest.mark.parametrize("expires", ["", "soon", "-1", "1e9", "9" * 13])
def test_a_time_that_is_none(old, expires):
    url = presign(old, *GET)
    query = dict(parse_qsl(urlsplit(url).query)) | {"Expires": expires}

    assert send(url.partition("?")[0] + "?" + urlencode(query)).code == "AccessDenied"


def test_rights_are_those_of_the_signer(old):
    url = presign(old, "get_object", {"Bucket": "models", "Key": "put"}, TENANT)

    assert send(url).code == "AccessDenied"
    assert send(presign(old, *GET, signer=TENANT)).status == 200


def test_off_it_names_its_setting(store):
    for headers, url in (
        ({}, presign(store, *GET)),
        ({"authorization": "AWS a:b"}, f"{store.url}/models?x-id=1"),
    ):
        answer = send(url, **headers)

        assert (answer.status, answer.code) == (501, "NotImplemented")
        assert b"sigv2 = true" in answer.body


def test_in_a_header(old):
    client = boto(old.endpoint(), signature_version="s3")
    client.put_object(Bucket="models", Key="head/er", Body=b"1", Metadata={"who": "me"}, ContentType="text/z")
    got = client.get_object(Bucket="models", Key="head/er")
    listed = client.list_objects_v2(Bucket="models", Prefix="head/")
    client.close()

    assert (got["Metadata"], got["ContentType"], got["Body"].read()) == ({"who": "me"}, "text/z", b"1")
    assert [line["Key"] for line in listed["Contents"]] == ["head/er"]


def test_a_signed_header_cannot_be_sent_again_later_or_for_more(old):
    caught = {}
    client = boto(old.endpoint(), signature_version="s3")
    client.meta.events.register("before-send.s3", lambda request, **_: caught.update(request.headers))
    client.get_object(Bucket="models", Key="acme/a b+é")
    client.close()
    headers = {name: value if isinstance(value, str) else value.decode() for name, value in caught.items()}
    url = f"{old.url}/models/acme/a%20b%2B%C3%A9"

    assert send(f"{url}?x-id=GetObject", **headers).body == b"data"
    assert send(f"{url}?acl=", **headers).code == "SignatureDoesNotMatch"
    assert send(f"{url}?x-amz-meta-a=1", **headers).code == "AccessDenied"
    late = headers | {"Date": "Sat, 01 Jan 2022 00:00:00 GMT"}
    assert send(f"{url}?x-id=1", **late).code == "RequestTimeTooSkewed"
    assert send(f"{url}?x-id=1", **(headers | {"Date": "now"})).code == "AccessDenied"


def test_a_header_that_came_wins_over_the_query():
    request = Signable("PUT", "/b/k", "content-type=a&x-amz-meta-b=c", (("content-type", "d"),))

    assert adopted(request).headers == (("content-type", "d"), ("x-amz-meta-b", "c"))
    assert string_to_sign(adopted(request), "1") == b"PUT\n\nd\n1\nx-amz-meta-b:c\n/b/k"
