"""Objects over HTTP, by boto3 with its defaults and by raw requests."""

import hashlib
import os
import threading
from datetime import UTC, datetime

import pytest
from botocore.exceptions import ClientError

from storage.client.sdk import presign, url_path
from tests.storage.stores import READER, TENANT, Raw, boto, settled_blobs

BIG = os.urandom(3_000_000)


def code(error) -> str:
    return error.value.response["Error"]["Code"]


def test_what_is_put_comes_back_with_its_headers(s3):
    s3.put_object(
        Bucket="models",
        Key="ns/ä b+c%.bin",
        Body=b"hello",
        ContentType="text/x",
        ContentEncoding="br",
        CacheControl="no-cache",
        ContentDisposition="attachment",
        ContentLanguage="de",
        Expires=datetime(2030, 1, 1, tzinfo=UTC),
        Metadata={"Some": "value", "other": "a,b"},
    )

    got = s3.get_object(Bucket="models", Key="ns/ä b+c%.bin")

    assert got["Body"].read() == b"hello"
    assert (got["ContentType"], got["ContentEncoding"], got["CacheControl"]) == ("text/x", "br", "no-cache")
    assert (got["ContentDisposition"], got["ContentLanguage"]) == ("attachment", "de")
    assert got["ExpiresString"] == "Tue, 01 Jan 2030 00:00:00 GMT"
    assert got["Metadata"] == {"some": "value", "other": "a,b"}
    assert got["ETag"] == f'"{hashlib.md5(b"hello").hexdigest()}"'
    assert got["AcceptRanges"] == "bytes"


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, len(BIG)])
def test_bodies_of_all_sizes(s3, size):
    put = s3.put_object(Bucket="models", Key=f"size-{size}", Body=BIG[:size])
    got = s3.get_object(Bucket="models", Key=f"size-{size}")
    head = s3.head_object(Bucket="models", Key=f"size-{size}")

    assert got["Body"].read() == BIG[:size]
    assert head["ContentLength"] == size
    assert put["ETag"] == got["ETag"] == head["ETag"] == f'"{hashlib.md5(BIG[:size]).hexdigest()}"'


@pytest.mark.parametrize(
    ("spec", "low", "high"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-70000", 10, 70_001),
        ("bytes=2999990-", 2_999_990, 3_000_000),
        ("bytes=-5", 2_999_995, 3_000_000),
    ],
)
def test_ranges(s3, spec, low, high):
    s3.put_object(Bucket="models", Key="ranged", Body=BIG)

    got = s3.get_object(Bucket="models", Key="ranged", Range=spec)

    assert got["Body"].read() == BIG[low:high]
    assert got["ContentRange"] == f"bytes {low}-{high - 1}/{len(BIG)}"
    assert got["ResponseMetadata"]["HTTPStatusCode"] == 206


def test_a_range_beyond_the_end(raw):
    raw.put("models", "short", b"abc")

    answer = raw.get("models", "short", range="bytes=3-")

    assert (answer.status, answer.code) == (416, "InvalidRange")
    assert answer.headers["content-range"] == "bytes */3"


def test_head_answers_ranges_without_a_body(raw):
    raw.put("models", "short", b"abc")

    answer = raw.send("HEAD", "/models/short", "", {"range": "bytes=1-"})

    assert (answer.status, answer.headers["content-length"], answer.body) == (206, "2", b"")


def test_conditional_reads(raw):
    etag = raw.put("models", "cond", b"abc").headers["etag"]

    unchanged = raw.get("models", "cond", if_none_match=etag)
    assert (unchanged.status, unchanged.body, unchanged.headers["etag"]) == (304, b"", etag)
    assert raw.get("models", "cond", if_match=etag).status == 200
    assert raw.get("models", "cond", if_match='"other"').code == "PreconditionFailed"
    assert (
        raw.get("models", "cond", if_modified_since=raw.get("models", "cond").headers["last-modified"]).status
        == 304
    )


def test_response_overrides(s3):
    s3.put_object(Bucket="models", Key="over", Body=b"x", ContentType="a/b")

    got = s3.get_object(
        Bucket="models", Key="over", ResponseContentType="c/d", ResponseContentDisposition="inline"
    )

    assert (got["ContentType"], got["ContentDisposition"]) == ("c/d", "inline")


def test_response_overrides_cannot_split_the_answer(raw):
    raw.put("models", "over", b"x")

    answer = raw.send("GET", "/models/over", "response-content-type=a%0d%0ax-evil%3A%201")

    assert (answer.status, answer.code) == (400, "InvalidArgument")


def test_conditional_writes(raw):
    assert raw.put("models", "once", b"1", if_none_match="*").status == 200
    second = raw.put("models", "once", b"2", if_none_match="*")
    etag = raw.get("models", "once").headers["etag"]
    swapped = raw.put("models", "once", b"3", if_match=etag)
    stale = raw.put("models", "once", b"4", if_match=etag)

    assert (second.status, second.code) == (412, "PreconditionFailed")
    assert swapped.status == 200
    assert (stale.status, stale.code) == (412, "PreconditionFailed")
    assert raw.put("models", "never", b"", if_match=etag).code == "NoSuchKey"
    assert raw.get("models", "once").body == b"3"
    assert raw.put("models", "once", b"5", if_none_match=swapped.headers["etag"]).status == 412
    assert raw.put("models", "once", b"6", if_none_match=etag).status == 200


def test_conditional_deletes(raw):
    etag = raw.put("models", "gone", b"1").headers["etag"]

    assert raw.delete("models", "gone", if_match='"other"').status == 412
    assert raw.delete("models", "gone", if_match=etag).status == 204
    assert raw.delete("models", "gone", if_match=etag).status == 404
    assert raw.delete("models", "gone").status == 204


def test_copies_move_no_bytes(s3, store):
    s3.put_object(Bucket="models", Key="from", Body=BIG, Metadata={"a": "b"}, ContentType="x/y")
    blobs = sorted(settled_blobs(store.settings.root))

    done = s3.copy_object(Bucket="models", Key="to", CopySource={"Bucket": "models", "Key": "from"})
    s3.copy_object(
        Bucket="models",
        Key="to2",
        CopySource={"Bucket": "models", "Key": "from"},
        MetadataDirective="REPLACE",
        Metadata={"c": "d"},
    )
    s3.delete_object(Bucket="models", Key="from")

    assert sorted(store.settings.root.glob("blobs/*/*")) == blobs
    got, replaced = s3.get_object(Bucket="models", Key="to"), s3.head_object(Bucket="models", Key="to2")
    assert got["Body"].read() == BIG
    assert (got["Metadata"], got["ContentType"], got["ETag"]) == (
        {"a": "b"},
        "x/y",
        done["CopyObjectResult"]["ETag"],
    )
    assert (replaced["Metadata"], replaced["ContentType"]) == ({"c": "d"}, "binary/octet-stream")


def test_conditional_copies(s3, raw):
    etag = s3.put_object(Bucket="models", Key="src", Body=b"1")["ETag"]
    source = {"Bucket": "models", "Key": "src"}

    s3.copy_object(Bucket="models", Key="dst", CopySource=source, CopySourceIfMatch=etag, IfNoneMatch="*")
    for refused in ({"CopySourceIfMatch": '"x"'}, {"CopySourceIfNoneMatch": etag}, {"IfNoneMatch": "*"}):
        with pytest.raises(ClientError) as error:
            s3.copy_object(Bucket="models", Key="dst", CopySource=source, **refused)
        assert code(error) == "PreconditionFailed"
    with pytest.raises(ClientError) as error:
        s3.copy_object(Bucket="models", Key="src", CopySource=source)
    assert code(error) == "InvalidRequest"
    with pytest.raises(ClientError) as error:
        s3.copy_object(Bucket="models", Key="x", CopySource={"Bucket": "models", "Key": "none"})
    assert code(error) == "NoSuchKey"
    assert raw.send("PUT", "/models/x", "", {"x-amz-copy-source": "/models/%ff"}).code == "InvalidURI"
    for source in ("models", "/models", "models/", "/"):
        assert b"bucket and key" in raw.send("PUT", "/models/x", "", {"x-amz-copy-source": source}).body


def test_deleting_many(s3, bucket):
    for n in range(5):
        s3.put_object(Bucket=bucket, Key=f"k{n}", Body=b"")

    asked = [{"Key": f"k{n}"} for n in range(4)] + [{"Key": "none"}, {"Key": "a/../b"}]
    done = s3.delete_objects(Bucket=bucket, Delete={"Objects": asked})
    quiet = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "k4"}], "Quiet": True})

    assert [row["Key"] for row in done["Deleted"]] == ["k0", "k1", "k2", "k3", "none"]
    assert [(row["Key"], row["Code"]) for row in done["Errors"]] == [("a/../b", "InvalidArgument")]
    assert "Deleted" not in quiet
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
def test_checksums_are_checked_kept_and_given_back(s3, algorithm):
    """boto3 computes them on the way in and validates them on the way out."""
    put = s3.put_object(Bucket="models", Key="summed", Body=BIG, ChecksumAlgorithm=algorithm)

    got = s3.get_object(Bucket="models", Key="summed", ChecksumMode="ENABLED")

    assert got["Body"].read() == BIG
    assert got[f"Checksum{algorithm}"] == put[f"Checksum{algorithm}"]
    assert got["ChecksumType"] == "FULL_OBJECT"


def test_every_object_has_a_crc64nvme(raw):
    raw.put("models", "plain", b"123456789")

    answer = raw.send("HEAD", "/models/plain", "", {"x-amz-checksum-mode": "ENABLED"})

    assert answer.headers["x-amz-checksum-crc64nvme"] == "rosUhgp5mIg="


def test_presigned_urls(store, raw):
    import http.client

    raw.put("models", "p q", b"abc")
    get = presign(store.endpoint(), "GET", url_path("models", "p q"), 60)
    put = presign(store.endpoint(), "PUT", url_path("models", "p r"), 60)
    connection = http.client.HTTPConnection("127.0.0.1", store.port)
    connection.request("GET", get.removeprefix(store.url))
    assert connection.getresponse().read() == b"abc"
    connection.request("PUT", put.removeprefix(store.url), b"new")
    assert connection.getresponse().status == 200
    connection.close()

    assert raw.get("models", "p r").body == b"new"


def test_boto_presigns_for_us(store, s3, raw):
    import http.client

    raw.put("models", "pp", b"abc")
    client = boto(store.endpoint(), signature_version="s3v4")
    url = client.generate_presigned_url("get_object", {"Bucket": "models", "Key": "pp"}, 60)
    client.close()
    connection = http.client.HTTPConnection("127.0.0.1", store.port)
    connection.request("GET", url.removeprefix(store.url))

    assert connection.getresponse().read() == b"abc"
    connection.close()


def test_rights_end_where_grants_end(store, raw):
    raw.put("models", "acme/m/a", b"1")
    raw.put("models", "umbrella/a", b"1")
    with Raw(store.endpoint(TENANT)) as tenant, Raw(store.endpoint(READER)) as reader:
        assert tenant.get("models", "acme/m/a").status == 200
        assert tenant.put("models", "acme/m/b", b"2").status == 200
        assert tenant.send("GET", "/models", "list-type=2&prefix=acme%2F").status == 200
        assert reader.get("models", "acme/m/b").body == b"2"
        denied = [
            tenant.get("models", "umbrella/a"),
            tenant.put("models", "acme", b""),
            tenant.send("GET", "/models", "list-type=2"),
            tenant.send("GET", "/models", "list-type=2&prefix=acme"),
            tenant.send("PUT", "/tenant-bucket"),
            tenant.send("DELETE", "/models", "prefix=acme%2F"),
            tenant.send("PUT", "/models/acme/c", "", {"x-amz-copy-source": "/models/umbrella/a"}),
            tenant.send("GET", "/", "nearfield-changes=&bucket=models"),
            reader.put("models", "acme/m/c", b""),
            reader.delete("models", "acme/m/a"),
            reader.send("POST", "/models/acme/x", "uploads="),
            reader.send("GET", "/nearfield-system", "list-type=2"),
        ]
        body = b"<Delete><Object><Key>umbrella/a</Key></Object><Object><Key>acme/m/b</Key></Object></Delete>"
        partly = tenant.send("POST", "/models", "delete=", {}, body)
        seen = tenant.send("GET", "/").body

    assert [(answer.status, answer.code) for answer in denied] == [(403, "AccessDenied")] * len(denied)
    assert b"<Key>umbrella/a</Key><Code>AccessDenied</Code>" in partly.body
    assert b"<Deleted><Key>acme/m/b</Key></Deleted>" in partly.body
    assert seen.count(b"<Bucket>") == 1


def test_an_overwrite_does_not_disturb_a_read_under_way(store, raw):
    """A reader that has its first bytes gets the rest of the same version, and the old blob goes afterwards."""
    import socket

    from storage.client.sdk import sign

    old, new = os.urandom(8_000_000), b"new"
    raw.put("models", "swapped", old)
    connection = socket.create_connection(("127.0.0.1", store.port))
    head = "".join(f"{n}: {v}\r\n" for n, v in sign(store.endpoint(), "GET", "/models/swapped"))
    connection.sendall(f"GET /models/swapped HTTP/1.1\r\n{head}\r\n".encode())
    got = connection.recv(1000)
    raw.put("models", "swapped", new)
    while len(got.partition(b"\r\n\r\n")[2]) < len(old):
        got += connection.recv(1 << 20)
    connection.close()

    assert got.partition(b"\r\n\r\n")[2] == old
    assert raw.get("models", "swapped").body == new


def test_readers_and_overwriters_never_see_a_mix(store, raw):
    versions = [bytes([n]) * 200_000 for n in range(8)]
    raw.put("models", "mixed", versions[0])
    bad = []
    stop = threading.Event()

    def read():
        with Raw(store.endpoint()) as reader:
            while not stop.is_set():
                answer = reader.get("models", "mixed")
                if answer.status != 200 or answer.body not in versions:
                    bad.append(answer)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for n in range(40):
        raw.put("models", "mixed", versions[n % 8])
    stop.set()
    for thread in threads:
        thread.join()

    assert bad == []


def test_deleting_many_takes_keys_to_the_last_blank(s3, bucket):
    for key in (" ", "a", "a "):
        s3.put_object(Bucket=bucket, Key=key, Body=b"")
    s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": " "}, {"Key": "a "}]})

    assert [row["Key"] for row in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["a"]


def test_codings_come_back_as_they_were_listed(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"", ContentEncoding="deflate, gzip")

    assert s3.head_object(Bucket=bucket, Key="k")["ContentEncoding"] == "deflate, gzip"
