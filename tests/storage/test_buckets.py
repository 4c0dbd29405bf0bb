import pytest
from botocore.exceptions import ClientError

from tests.storage.stores import Raw


def test_the_life_of_a_bucket(s3, raw):
    s3.create_bucket(Bucket="life")
    s3.create_bucket(Bucket="life")  # as in us-east-1, which the store says it is
    s3.head_bucket(Bucket="life")
    assert "life" in [row["Name"] for row in s3.list_buckets()["Buckets"]]
    assert s3.get_bucket_location(Bucket="life")["LocationConstraint"] is None
    s3.put_object(Bucket="life", Key="a", Body=b"")
    with pytest.raises(ClientError) as full:
        s3.delete_bucket(Bucket="life")
    s3.delete_object(Bucket="life", Key="a")
    s3.delete_bucket(Bucket="life")
    with pytest.raises(ClientError) as gone:
        s3.head_bucket(Bucket="life")

    assert full.value.response["Error"]["Code"] == "BucketNotEmpty"
    assert gone.value.response["ResponseMetadata"]["HTTPStatusCode"] == 404
    for answer in (
        raw.put("life", "a", b""),
        raw.get("life", "a"),
        raw.delete("life", "a"),
        raw.send("GET", "/life"),
    ):
        assert (answer.status, answer.code) == (404, "NoSuchBucket")


def test_a_bucket_with_a_location(s3):
    s3.create_bucket(Bucket="placed", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})

    s3.head_bucket(Bucket="placed")


@pytest.fixture
def filled(s3, bucket):
    keys = ["a/1", "a/2", "a/b/3", "b", "c+d e/ä", "d"]
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    return bucket, keys


def test_listing_v2(s3, filled):
    bucket, keys = filled

    whole = s3.list_objects_v2(Bucket=bucket, FetchOwner=True)
    top = s3.list_objects_v2(Bucket=bucket, Delimiter="/")
    under = s3.list_objects_v2(Bucket=bucket, Prefix="a/", Delimiter="/")
    after = s3.list_objects_v2(Bucket=bucket, StartAfter="a/b/3", MaxKeys=1)

    assert [row["Key"] for row in whole["Contents"]] == keys
    assert whole["Contents"][0]["Size"] == 3
    assert whole["Contents"][0]["Owner"]["ID"] == "nearfield"
    assert [row["Prefix"] for row in top["CommonPrefixes"]] == ["a/", "c+d e/"]
    assert [row["Key"] for row in top["Contents"]] == ["b", "d"]
    assert [row["Key"] for row in under["Contents"]] == ["a/1", "a/2"]
    assert (after["Contents"][0]["Key"], after["IsTruncated"], after["KeyCount"]) == ("b", True, 1)
    assert s3.list_objects_v2(Bucket=bucket, MaxKeys=0)["IsTruncated"] is False


@pytest.mark.parametrize("version", ["list_objects", "list_objects_v2"])
@pytest.mark.parametrize("size", [1, 2, 1000])
def test_pages(s3, filled, version, size):
    bucket, keys = filled
    pages = s3.get_paginator(version).paginate(Bucket=bucket, PaginationConfig={"PageSize": size})

    assert [row["Key"] for page in pages for row in page.get("Contents", [])] == keys


def test_pages_with_a_delimiter(s3, filled):
    bucket, _ = filled
    for version in ("list_objects", "list_objects_v2"):
        pages = list(
            s3.get_paginator(version).paginate(Bucket=bucket, Delimiter="/", PaginationConfig={"PageSize": 1})
        )
        found = [row["Prefix"] for page in pages for row in page.get("CommonPrefixes", [])]
        assert found == ["a/", "c+d e/"]
        assert len(pages) == 4


def test_listing_without_encoding_escapes(raw, filled):
    bucket, _ = filled
    raw.put(bucket, "x<&>\x02", b"")

    answer = raw.send("GET", f"/{bucket}", "list-type=2&prefix=x")

    assert b"<Key>x&lt;&amp;&gt;&#x2;</Key>" in answer.body


@pytest.mark.parametrize(
    "query",
    [
        "list-type=2&max-keys=x",
        "list-type=2&max-keys=-1",
        "list-type=2&continuation-token=%25",
        "list-type=3",
        "encoding-type=gzip",
    ],
)
def test_bad_listings(raw, query):
    answer = raw.send("GET", "/models", query)

    assert (answer.status, answer.code) == (400, "InvalidArgument")


@pytest.mark.parametrize(
    ("method", "path", "query"),
    [
        ("GET", "/models", "logging="),
        ("GET", "/models", "website="),
        ("PUT", "/models", "replication="),
        ("GET", "/models/a", "torrent="),
        ("PUT", "/models/a", "retention="),
        ("GET", "/models/a", "acl=&tagging="),
        ("POST", "/models/a", "restore="),
        ("POST", "/", ""),
        ("PATCH", "/models", ""),
    ],
)
def test_what_is_not_there_says_so(raw, method, path, query):
    answer = raw.send(method, path, query)

    assert (answer.status, answer.code) == (501, "NotImplemented")


@pytest.mark.parametrize(
    "header",
    [
        {"x-amz-server-side-encryption": "AES256"},
        {"x-amz-storage-class": "GLACIER"},
        {"x-amz-object-lock-mode": "GOVERNANCE"},
    ],
)
def test_headers_that_would_be_a_lie_are_refused(raw, header):
    answer = raw.send("PUT", "/models/lie", "", header, b"x")

    assert (answer.status, answer.code) == (501, "NotImplemented")
    assert raw.get("models", "lie").status == 404


def test_old_versions_do_not_exist(raw):
    raw.put("models", "v", b"")

    assert raw.send("GET", "/models/v", "versionId=null").status == 200
    assert raw.send("GET", "/models/v", "versionId=abc").code == "NoSuchVersion"
    assert raw.send("DELETE", "/models/v", "versionId=abc").code == "NoSuchVersion"


def test_errors_carry_the_request_id(raw):
    answer = raw.get("models", "no such key")

    assert answer.headers["content-type"] == "application/xml"
    assert f"<RequestId>{answer.headers['x-amz-request-id']}</RequestId>".encode() in answer.body


def test_no_route_works_without_a_signature(store):
    """Every method on every level: 403 before anything else is looked at."""
    with Raw(store.endpoint()) as raw:
        for method in ("GET", "HEAD", "PUT", "POST", "DELETE", "PATCH"):
            for path, query in (
                ("/", ""),
                ("/models", "list-type=2"),
                ("/models/a", ""),
                ("/models/a", "uploads="),
                ("/", "nearfield-changes="),
            ):
                answer = raw.send_as_is(method, path, query, {"host": raw.endpoint.netloc})
                assert answer.status == 403
                assert method == "HEAD" or answer.code == "AccessDenied"


def test_a_question_of_no_browser_is_no_request(store):
    """OPTIONS is never signed, and answers nothing but preflights, whatever the path."""
    with Raw(store.endpoint()) as raw:
        for path in ("/", "/models", "/models/a", "/no-such-bucket"):
            for headers in ({}, {"origin": "https://a"}, {"access-control-request-method": "GET"}):
                answer = raw.send_as_is("OPTIONS", path, "", {"host": raw.endpoint.netloc} | headers)
                assert (answer.status, answer.code) == (400, "BadRequest")


def test_an_empty_delimiter_is_none(s3, filled):
    bucket, keys = filled
    answer = s3.list_objects_v2(Bucket=bucket, Delimiter="")

    assert "Delimiter" not in answer
    assert [row["Key"] for row in answer["Contents"]] == keys
