import pytest
from botocore.exceptions import ClientError

from tests.storage.stores import Raw

RULES = {
    "CORSRules": [
        {
            "AllowedOrigins": ["https://*.example.com"],
            "AllowedMethods": ["GET", "PUT"],
            "AllowedHeaders": ["x-amz-*"],
            "ExposeHeaders": ["ETag"],
            "MaxAgeSeconds": 60,
        },
        {"AllowedOrigins": ["*"], "AllowedMethods": ["GET"]},
    ]
}


@pytest.fixture
def open_bucket(s3, bucket):
    s3.put_bucket_cors(Bucket=bucket, CORSConfiguration=RULES)
    return bucket


def ask(raw, path, origin, method, headers=None):
    fields = {"host": raw.endpoint.netloc, "origin": origin, "access-control-request-method": method}
    fields |= {"access-control-request-headers": headers} if headers else {}
    return raw.send_as_is("OPTIONS", path, "", fields)


def test_the_life_of_the_rules(s3, bucket):
    with pytest.raises(ClientError, match="NoSuchCORSConfiguration"):
        s3.get_bucket_cors(Bucket=bucket)
    s3.put_bucket_cors(Bucket=bucket, CORSConfiguration=RULES)
    assert s3.get_bucket_cors(Bucket=bucket)["CORSRules"] == RULES["CORSRules"]
    s3.delete_bucket_cors(Bucket=bucket)
    with pytest.raises(ClientError, match="NoSuchCORSConfiguration"):
        s3.get_bucket_cors(Bucket=bucket)


def test_a_browser_asks_first_without_a_signature(raw, open_bucket):
    yes = ask(raw, f"/{open_bucket}/k", "https://a.example.com", "PUT", "x-amz-date, X-Amz-Acl")
    no_header = ask(raw, f"/{open_bucket}/k", "https://a.example.com", "PUT", "cookie")
    no_method = ask(raw, f"/{open_bucket}/k", "https://a.example.com", "DELETE")
    anybody = ask(raw, f"/{open_bucket}", "https://elsewhere", "GET")

    assert yes.status == 200
    assert yes.headers["access-control-allow-origin"] == "https://a.example.com"
    assert yes.headers["access-control-allow-methods"] == "GET, PUT"
    assert yes.headers["access-control-allow-headers"] == "x-amz-date, x-amz-acl"
    assert yes.headers["access-control-max-age"] == "60"
    assert [(no.status, no.code) for no in (no_header, no_method)] == [(403, "AccessForbidden")] * 2
    assert anybody.headers["access-control-allow-origin"] == "*"


def test_a_question_says_nothing_about_buckets_without_rules(raw, bucket):
    for path in (f"/{bucket}", "/no-such-bucket", "/", "/!"):
        assert ask(raw, path, "https://a.example.com", "GET").code == "AccessForbidden"


def test_answers_carry_the_permission(raw, store, open_bucket):
    with Raw(store.endpoint()) as other:
        got = other.send("GET", f"/{open_bucket}", "", {"origin": "https://a.example.com"})
        missing = other.get(open_bucket, "none", origin="https://a.example.com")
        plain = other.send("GET", f"/{open_bucket}")

    assert got.headers["access-control-expose-headers"] == "ETag"
    assert (missing.status, missing.headers["access-control-allow-methods"]) == (404, "GET, PUT")
    assert "access-control-allow-origin" not in plain.headers


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        ({"AllowedOrigins": ["*"], "AllowedMethods": ["OPTIONS"]}, "InvalidRequest"),
        ({"AllowedOrigins": ["*.*"], "AllowedMethods": ["GET"]}, "InvalidRequest"),
        ({"AllowedOrigins": [], "AllowedMethods": ["GET"]}, "MalformedXML"),
    ],
)
def test_bad_rules(s3, bucket, rule, code):
    with pytest.raises(ClientError, match=code):
        s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": [rule]})
