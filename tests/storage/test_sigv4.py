import hashlib
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, urlsplit

import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.auth.canonical import PayloadKind, Signable, signing_key
from storage.auth.claims import read_claim
from storage.auth.key import AccessKey, Grant
from storage.auth.sigv4 import Verifier
from storage.client.sdk import Endpoint, presign, sign
from storage.fault import S3Error
from tests.evidence import count
from tests.storage.stores import ROOT_KEY

KEY = AccessKey("NFTEST", 3, (Grant.parse("*::admin"),))
SECRET = KEY.secret(ROOT_KEY)
VERIFIER = Verifier((KEY,), ROOT_KEY)
HOST = "127.0.0.1:9000"
ENDPOINT = Endpoint(f"http://{HOST}", KEY.id, SECRET)
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)

KEYS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00"), min_size=1, max_size=30)
QUERIES = st.dictionaries(
    st.sampled_from(["prefix", "a", "a-b", "uploads", "x y", "max-keys"]), KEYS, max_size=4
)


def signed_request(**changed):
    parts = {
        "method": "GET",
        "path": "/models/a.bin",
        "query": "prefix=a%2Fb&uploads",
        "headers": (("range", "bytes=0-9"),),
    }
    parts |= changed
    headers = sign(ENDPOINT, parts["method"], parts["path"], parts["query"], parts["headers"], now=NOW)
    return Signable(parts["method"], parts["path"], parts["query"], headers)


def code_of(request: Signable, now: datetime = NOW) -> str:
    with pytest.raises(S3Error) as caught:
        VERIFIER.verify(request, now)
    return caught.value.code


@given(key=KEYS, query=QUERIES, body=st.binary(max_size=10), method=st.sampled_from(["GET", "PUT", "DELETE"]))
@settings(max_examples=count(50, 150), deadline=None)
def test_what_botocore_signs_verifies(key, query, body, method):
    raw_query = "&".join(f"{quote(n, safe='-._~')}={quote(v, safe='-._~')}" for n, v in query.items())
    url = f"http://{HOST}/models/{quote(key, safe='/~')}" + (f"?{raw_query}" if raw_query else "")
    request = AWSRequest(method, url, {"x-amz-meta-note": "two   spaces", "content-type": "text/plain"}, body)
    S3SigV4Auth(Credentials(KEY.id, SECRET), "s3", "eu-x-1").add_auth(request)
    headers = tuple((name.lower(), value) for name, value in request.headers.items())
    split = urlsplit(url)

    verified = VERIFIER.verify(
        Signable(method, split.path, split.query, (("host", HOST), *headers)), datetime.now(UTC)
    )

    assert verified.identity.access_key == KEY.id
    assert verified.sha256 == hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_what_botocore_presigns_verifies(method):
    request = AWSRequest(method, f"http://{HOST}/models/a%20b%2Bc", params={"response-content-type": "a/b c"})
    S3SigV4QueryAuth(Credentials(KEY.id, SECRET), "s3", "us-east-1", expires=60).add_auth(request)
    split = urlsplit(request.prepare().url)

    verified = VERIFIER.verify(
        Signable(method, split.path, split.query, (("host", HOST),)), datetime.now(UTC)
    )

    assert verified.payload is PayloadKind.UNSIGNED


def test_our_signature_is_botocores(monkeypatch):
    """The same request, the same second, the same signature."""
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: NOW.replace(tzinfo=None))
    request = AWSRequest(
        "GET", f"http://{HOST}/models/a%20b?list-type=2&prefix=x%2Fy", {"range": "bytes=1-2"}
    )
    request.context["client_config"] = type("C", (), {"s3": {"payload_signing_enabled": False}})()
    S3SigV4Auth(Credentials(KEY.id, SECRET), "s3", "us-east-1").add_auth(request)

    ours = sign(
        ENDPOINT, "GET", "/models/a%20b", "list-type=2&prefix=x%2Fy", (("range", "bytes=1-2"),), now=NOW
    )

    assert dict(ours)["authorization"] == request.headers["Authorization"]


def test_our_own_signature_verifies():
    verified = VERIFIER.verify(signed_request(), NOW)

    assert verified.payload is PayloadKind.UNSIGNED
    assert verified.chain is None


def test_every_changed_byte_of_a_signature_fails():
    request = signed_request()
    headers = dict(request.headers)
    claimed = headers["authorization"]
    signature_at = claimed.index("Signature=") + len("Signature=")
    for at in range(signature_at, len(claimed)):
        wrong = "0" if claimed[at] != "0" else "1"
        for changed in (wrong, chr(ord(claimed[at]) ^ 0x80), ""):
            headers["authorization"] = claimed[:at] + changed + claimed[at + 1 :]
            assert code_of(Signable("GET", request.path, request.query, tuple(headers.items()))) in {
                "SignatureDoesNotMatch",
                "AuthorizationHeaderMalformed",
            }


@given(data=st.data())
@settings(max_examples=count(100, 300), deadline=None)
def test_any_changed_byte_of_a_request_fails(data):
    """Method, path, query and each signed header are all under the signature."""
    request = signed_request(headers=(("range", "bytes=0-9"), ("x-amz-meta-a", "b")))
    fields = [request.method, request.path, request.query, *(value for _, value in request.headers)]
    which = data.draw(st.integers(0, len(fields) - 1))
    at = data.draw(st.integers(0, len(fields[which]) - 1))
    new = data.draw(st.characters(min_codepoint=33, max_codepoint=126))
    old = fields[which]
    fields[which] = old[:at] + new + old[at + 1 :]
    names = [name for name, _ in request.headers]
    changed = Signable(fields[0], fields[1], fields[2], tuple(zip(names, fields[3:], strict=True)))
    if canonical_twin(old, fields[which]):
        return
    with pytest.raises(S3Error):
        VERIFIER.verify(changed, NOW)


def canonical_twin(old: str, new: str) -> bool:
    """True for another spelling of the same request: 'uploads' and 'uploads=', %2F and %2f, list separators."""
    return old == new or old.lower() == new.lower() or old.replace(",", "") == new.replace(",", "")


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ((), "AccessDenied"),
        ((("authorization", "Basic Zm9v"),), "InvalidRequest"),
        ((("authorization", "AWS NFTEST:abcd"),), "NotImplemented"),
        (
            (
                ("authorization", "AWS4-HMAC-SHA256 Credential=x"),
                ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
                ("x-amz-date", "20261121T120000Z"),
            ),
            "AuthorizationHeaderMalformed",
        ),
    ],
)
def test_a_request_without_a_proper_signature_is_refused(headers, code):
    assert code_of(Signable("GET", "/", "", (("host", HOST), *headers))) == code


def test_an_x_amz_header_that_is_not_signed_is_refused():
    request = signed_request()

    assert (
        code_of(Signable("GET", request.path, request.query, (*request.headers, ("x-amz-acl", "private"))))
        == "AccessDenied"
    )


def test_a_host_that_is_not_signed_is_refused():
    request = signed_request()
    headers = tuple((name, value.replace("host;", "")) for name, value in request.headers)

    assert code_of(Signable("GET", request.path, request.query, headers)) == "AccessDenied"


def test_unknown_keys_and_old_generations_are_refused():
    old = AccessKey(KEY.id, 2, KEY.grants)
    stranger = Endpoint(ENDPOINT.url, "NFOTHER", SECRET)
    revoked = Endpoint(ENDPOINT.url, KEY.id, old.secret(ROOT_KEY))

    assert code_of(Signable("GET", "/", "", sign(stranger, "GET", "/", now=NOW))) == "InvalidAccessKeyId"
    assert code_of(Signable("GET", "/", "", sign(revoked, "GET", "/", now=NOW))) == "SignatureDoesNotMatch"


@pytest.mark.parametrize(("minutes", "fine"), [(-16, False), (-14, True), (14, True), (16, False)])
def test_clocks_may_differ_by_fifteen_minutes(minutes, fine):
    now = NOW + timedelta(minutes=minutes)
    if fine:
        VERIFIER.verify(signed_request(), now)
    else:
        way = "behind" if minutes > 0 else "ahead of"
        with pytest.raises(S3Error, match=f"the signer's clock is 16 minutes {way} the store's") as refused:
            VERIFIER.verify(signed_request(), now)
        assert refused.value.code == "RequestTimeTooSkewed"


@pytest.mark.parametrize(
    ("seconds", "code"), [(0, None), (59, None), (61, "AccessDenied"), (-1000, "RequestTimeTooSkewed")]
)
def test_a_presigned_request_lives_as_long_as_it_says(seconds, code):
    split = urlsplit(presign(ENDPOINT, "GET", "/models/a", 60, now=NOW))
    request = Signable("GET", split.path, split.query, (("host", HOST),))
    now = NOW + timedelta(seconds=seconds)
    if code is None:
        VERIFIER.verify(request, now)
    else:
        assert code_of(request, now) == code


@pytest.mark.parametrize(
    ("expires", "code"),
    [
        ("0", "AccessDenied"),
        ("-1", "AccessDenied"),
        *((bad, "AuthorizationQueryParametersError") for bad in ("604801", "1e3", "x", "")),
    ],
)
def test_a_presigned_life_is_bounded(expires, code):
    split = urlsplit(presign(ENDPOINT, "GET", "/models/a", 60, now=NOW))
    query = split.query.replace("X-Amz-Expires=60", f"X-Amz-Expires={expires}")

    assert code_of(Signable("GET", split.path, query, (("host", HOST),))) == code


def test_two_signatures_at_once_are_refused():
    split = urlsplit(presign(ENDPOINT, "GET", "/models/a", 60, now=NOW))
    headers = sign(ENDPOINT, "GET", "/models/a", split.query, now=NOW)

    assert code_of(Signable("GET", split.path, split.query, headers)) == "InvalidArgument"


def test_signature_version_2_is_named_and_refused():
    request = Signable("GET", "/models/a", "AWSAccessKeyId=a&Signature=b&Expires=1", (("host", HOST),))

    assert code_of(request) == "NotImplemented"


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        ("STREAMING-UNSIGNED-PAYLOAD", "InvalidArgument"),
        ("STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD", "NotImplemented"),
        ("streaming-unsigned-payload-trailer", "InvalidArgument"),
        ("", "InvalidArgument"),
        ("A" * 64, "InvalidArgument"),
        ("a" * 63, "InvalidArgument"),
    ],
)
def test_unknown_payload_kinds_are_refused(payload, code):
    request = Signable("PUT", "/models/a", "", sign(ENDPOINT, "PUT", "/models/a", payload=payload, now=NOW))

    assert code_of(request) == code


def test_streaming_kinds_are_not_for_presigned_requests():
    kind = PayloadKind.CHUNKS_UNSIGNED_TRAILER.value
    fields = {
        "Algorithm": "AWS4-HMAC-SHA256",
        "Credential": "NFTEST/20261121/us-east-1/s3/aws4_request",
        "Date": "20261121T120000Z",
        "Expires": "60",
        "SignedHeaders": "host%3Bx-amz-content-sha256",
        "Signature": "00",
    }
    query = "&".join(f"X-Amz-{name}={value}" for name, value in fields.items())
    request = Signable("PUT", "/models/a", query, (("host", HOST), ("x-amz-content-sha256", kind)))

    assert code_of(request) == "InvalidArgument"


def test_a_signed_streaming_request_seeds_the_chain():
    kind = PayloadKind.CHUNKS_SIGNED.value
    request = Signable("PUT", "/models/a", "", sign(ENDPOINT, "PUT", "/models/a", payload=kind, now=NOW))

    chain = VERIFIER.verify(request, NOW).chain

    assert chain is not None
    assert chain.previous == read_claim(request).signature


def test_the_signing_key_of_the_documentation():
    """https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html, GET Object with a range."""
    request = Signable(
        "GET",
        "/test.txt",
        "",
        (
            ("host", "examplebucket.s3.amazonaws.com"),
            ("range", "bytes=0-9"),
            ("x-amz-content-sha256", hashlib.sha256(b"").hexdigest()),
            ("x-amz-date", "20130524T000000Z"),
        ),
    )
    from storage.auth.canonical import Claim, canonical_request, sign_canonical

    names = ("host", "range", "x-amz-content-sha256", "x-amz-date")
    claim = Claim(
        "AKIAIOSFODNN7EXAMPLE", "20130524", "us-east-1", "20130524T000000Z", names, "", request.headers[2][1]
    )
    key = signing_key("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "20130524", "us-east-1")

    assert sign_canonical(key, claim, canonical_request(request, names, claim.payload)) == (
        "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    )
