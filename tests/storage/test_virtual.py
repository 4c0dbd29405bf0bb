"""Buckets in the name of the host: boto3 addresses them so, and only a store that was given a domain listens."""

import shutil
import socket

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from storage.client.sdk import Endpoint, presign, sign
from storage.http.virtual import bucket_of, parse_domain
from tests.storage.stores import ADMIN, ROOT_KEY, Raw, StoreThread, memory_folder
from tests.storage.test_post import body_of, post

DOMAINS = ("s3.localhost", "deep.s3.localhost")
NAMES = ("plain", "with.dots.in-it")


@pytest.fixture(scope="module")
def named():
    store = StoreThread(memory_folder(), domains=DOMAINS, sigv2=True)
    yield store
    store.stop()
    shutil.rmtree(store.settings.root)


@pytest.fixture
def everywhere(monkeypatch):
    """Every name under localhost is this machine, as browsers have it and glibc does not."""
    real = socket.getaddrinfo

    def resolve(host, *args, **more):
        return real("127.0.0.1" if str(host).endswith("localhost") else host, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


def client(store, version="s3v4", host="s3.localhost"):
    return boto3.session.Session().client(
        "s3",
        endpoint_url=f"http://{host}:{store.port}",
        region_name="us-east-1",
        aws_access_key_id=ADMIN.id,
        aws_secret_access_key=ADMIN.secret(ROOT_KEY),
        config=Config(
            s3={"addressing_style": "virtual"}, signature_version=version, retries={"total_max_attempts": 1}
        ),
    )


@pytest.mark.parametrize("version", ["s3v4", "s3"])
@pytest.mark.parametrize("bucket", NAMES)
def test_boto3_with_virtual_addressing(named, everywhere, bucket, version):
    s3 = client(named, version)
    asked = []
    s3.meta.events.register("before-send.s3", lambda request, **_: asked.append(request.url))
    bucket = f"{bucket}.{version}"
    s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="dir/a b", Body=b"data", Metadata={"who": "me"})
    got = s3.get_object(Bucket=bucket, Key="dir/a b")
    s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "dir/a b"})
    listed = [line["Key"] for line in s3.list_objects_v2(Bucket=bucket)["Contents"]]
    s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in listed]})
    s3.delete_bucket(Bucket=bucket)
    names = [each["Name"] for each in s3.list_buckets()["Buckets"]]
    s3.close()

    assert (got["Body"].read(), got["Metadata"]) == (b"data", {"who": "me"})
    assert listed == ["copy", "dir/a b"]
    assert bucket not in names
    assert f"http://{bucket}.s3.localhost:{named.port}/dir/a%20b" in asked


def test_a_bucket_that_is_not_there_says_so(named, everywhere):
    s3 = client(named)
    with pytest.raises(ClientError, match="NoSuchBucket"):
        s3.list_objects_v2(Bucket="nobodys")
    s3.close()


def ask(store, host, path="/", method="GET", query="", **more):
    """A request to the store under another name, signed over that name."""
    endpoint = Endpoint(f"http://{host}:{store.port}", ADMIN.id, ADMIN.secret(ROOT_KEY))
    headers = dict(sign(endpoint, method, path, query, **more))
    with Raw(store.endpoint()) as raw:
        return raw.send_as_is(method, path, query, headers)


def test_the_host_is_signed(named):
    assert ask(named, "first.s3.localhost", method="PUT").status == 200
    assert ask(named, "other.s3.localhost", method="PUT").status == 200
    endpoint = Endpoint(f"http://first.s3.localhost:{named.port}", ADMIN.id, ADMIN.secret(ROOT_KEY))
    headers = dict(sign(endpoint, "GET", "/"))
    with Raw(named.endpoint()) as raw:
        moved = headers | {"host": f"other.s3.localhost:{named.port}"}
        assert raw.send_as_is("GET", "/", "", headers).status == 200
        assert raw.send_as_is("GET", "/", "", moved).code == "SignatureDoesNotMatch"
        path = presign(endpoint, "GET", "/", 60).partition(str(named.port))[2]
        query = path.partition("?")[2]
        assert raw.send_as_is("GET", "/", query, {"host": headers["host"]}).status == 200
        assert raw.send_as_is("GET", "/", query, {"host": moved["host"]}).code == "SignatureDoesNotMatch"


def test_path_style_works_beside_it(named):
    ask(named, "both.s3.localhost", method="PUT")

    assert ask(named, "s3.localhost", "/both").status == 200
    assert ask(named, "127.0.0.1", "/both").status == 200
    assert ask(named, "deep.s3.localhost", "/both").status == 200
    assert ask(named, "S3.LOCALHOST", "/both").status == 200
    assert ask(named, "both.deep.s3.localhost").status == 200
    assert ask(named, "BOTH.s3.localhost").status == 200


@pytest.mark.parametrize(
    "host", ["a_b.s3.localhost", "x.s3.localhost", "-a.s3.localhost", "a..b.s3.localhost"]
)
def test_a_name_that_no_bucket_may_have(named, host):
    assert ask(named, host).code in {"InvalidBucketName", "NoSuchBucket"}


def test_without_a_domain_every_host_is_path_style(store):
    assert ask(store, "models.s3.localhost", "/models").status == 200
    listed = ask(store, "models.s3.localhost")
    assert (listed.status, b"ListAllMyBucketsResult" in listed.body) == (200, True)


def test_a_form_to_a_named_host(named, everywhere):
    s3 = client(named)
    s3.create_bucket(Bucket="forms")
    made = s3.generate_presigned_post("forms", "in/k")
    s3.close()

    host = f"forms.s3.localhost:{named.port}"
    answer = post(named, "", body_of(made["fields"], b"1"), host=host)

    assert made["url"] == f"http://{host}/"
    assert (answer.status, answer.headers["location"]) == (204, f"http://{host}/in/k")


def test_rules_of_origins_are_found_by_host(named, everywhere):
    s3 = client(named)
    s3.create_bucket(Bucket="crossed")
    rule = {"AllowedMethods": ["GET"], "AllowedOrigins": ["https://app.example"]}
    s3.put_bucket_cors(Bucket="crossed", CORSConfiguration={"CORSRules": [rule]})
    s3.close()
    asked = {
        "host": f"crossed.s3.localhost:{named.port}",
        "origin": "https://app.example",
        "access-control-request-method": "GET",
    }
    with Raw(named.endpoint()) as raw:
        answer = raw.send_as_is("OPTIONS", "/k", "", asked)

    assert answer.headers["access-control-allow-origin"] == "https://app.example"


labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,5}[a-z0-9])?", fullmatch=True)


@given(st.lists(labels, min_size=1, max_size=3).map(".".join), st.sampled_from(["", ":80", ":", ":9000"]))
def test_whatever_stands_before_the_domain_is_the_bucket(bucket, port):
    assert bucket_of(f"{bucket}.s3.example.com{port}", ["example.org", "s3.example.com"]) == bucket
    assert bucket_of(f"{bucket}.s3.example.net{port}", ["example.org", "s3.example.com"]) is None
    assert bucket_of(f"{bucket}s3.example.com{port}", ["s3.example.com"]) is None


@pytest.mark.parametrize("host", ["", ":", "s3.example.com", "[::1]:9000", "[::1]", ".s3.example.com.evil"])
def test_hosts_that_name_no_bucket(host):
    assert bucket_of(host, ["s3.example.com"]) is None


@pytest.mark.parametrize(
    "text", ["", "S3.example.com", "s3.example.com:80", ".a", "a..b", "127.0.0.1", "-a", "a" * 200]
)
def test_what_is_no_domain(text):
    with pytest.raises(ValueError, match="domain"):
        parse_domain(text)
