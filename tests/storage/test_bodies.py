"""Bodies of every payload kind, and what is wrong with some of them."""

import base64
import hashlib
import http.client
import os
import socket
import threading
import zlib
from urllib.parse import quote

import pytest

from storage.auth.canonical import PayloadKind, Signable, signing_key
from storage.auth.claims import read_claim
from storage.auth.sigv4 import ChunkChain
from storage.client.sdk import sign
from storage.http.ingest import Ingest
from tests.storage.stores import Raw, settled_blobs
from tests.storage.test_awschunked import signed_body, unsigned_body

DATA = bytes(range(256)) * 700
MD5 = base64.b64encode(hashlib.md5(DATA).digest()).decode()
CRC = base64.b64encode(zlib.crc32(DATA).to_bytes(4, "big")).decode()


@pytest.fixture
def nothing_left(store):
    """A refused upload leaves no file behind."""
    before = settled_blobs(store.settings.root)
    yield
    assert settled_blobs(store.settings.root) == before


def put_chunked(store, key: str, kind: PayloadKind, headers: dict[str, str], make_body, *, chunked=False):
    """A PUT in one of the streaming kinds; `make_body(seed signature)` gives the wire bytes."""
    kinds = {"content-encoding": "aws-chunked"} | headers
    signed = sign(store.endpoint(), "PUT", f"/models/{key}", "", tuple(kinds.items()), kind.value)
    seed = read_claim(Signable("PUT", f"/models/{key}", "", signed))
    connection = http.client.HTTPConnection("127.0.0.1", store.port, timeout=60)
    connection.putrequest("PUT", f"/models/{key}", skip_host=True, skip_accept_encoding=True)
    for name, value in signed:
        connection.putheader(name, value)
    body = make_body(
        ChunkChain(
            signing_key(store.endpoint().secret, seed.date, seed.region), seed.at, seed.scope, seed.signature
        )
    )
    connection.putheader(
        *(("transfer-encoding", "chunked") if chunked else ("content-length", str(len(body))))
    )
    connection.endheaders()
    pieces = [body[at : at + 7001] for at in range(0, len(body), 7001)] if chunked else [body]
    for piece in pieces:
        connection.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
    if chunked:
        connection.send(b"0\r\n\r\n")
    answer = connection.getresponse()
    status, text = answer.status, answer.read()
    connection.close()
    return status, text


LENGTH = {"x-amz-decoded-content-length": str(len(DATA))}
TRAILER = LENGTH | {"x-amz-trailer": "x-amz-checksum-crc32"}


@pytest.mark.parametrize("chunked", [False, True])
def test_unsigned_chunks_with_a_trailer(store, raw, chunked):
    """What the SDKs send over TLS, which the edge relays; botocore frames it as HTTP chunks as well."""
    kind = PayloadKind.CHUNKS_UNSIGNED_TRAILER

    status, text = put_chunked(
        store, "unsigned", kind, TRAILER, lambda _: unsigned_body(DATA), chunked=chunked
    )

    got = raw.send("GET", "/models/unsigned", "", {"x-amz-checksum-mode": "ENABLED"})
    assert (status, text) == (200, b"")
    assert got.body == DATA
    assert got.headers["x-amz-checksum-crc32"] == CRC
    assert "content-encoding" not in got.headers


@pytest.mark.parametrize("trailer", [None, ("x-amz-checksum-crc32", CRC)])
def test_signed_chunks(store, raw, trailer):
    kind = PayloadKind.CHUNKS_SIGNED_TRAILER if trailer else PayloadKind.CHUNKS_SIGNED
    headers = (TRAILER if trailer else LENGTH) | {"content-encoding": "aws-chunked,gzip"}

    def body(link: ChunkChain) -> bytes:
        return rekeyed(DATA, link, trailer)

    status, _ = put_chunked(store, "signed", kind, headers, body)

    got = raw.get("models", "signed")
    assert status == 200
    assert got.body == DATA
    assert got.headers["content-encoding"] == "gzip"


def test_a_large_body_is_read_where_it_is_worked_on(store, raw, monkeypatch):
    """Whoever sends faster than is written is read by the thread that writes, and the bytes are the same."""
    threads = []
    take = Ingest.take

    def seen(self, data):
        threads.append(threading.current_thread().name)
        take(self, data)

    monkeypatch.setattr(Ingest, "take", seen)
    data = os.urandom(1 << 20) * 48

    done = raw.send("PUT", "/models/fast", "", {}, data, payload="UNSIGNED-PAYLOAD")

    assert done.status == 200
    assert {name.rpartition("_")[0] for name in threads} == {"store"}
    assert raw.get("models", "fast").body == data


def rekeyed(payload: bytes, link: ChunkChain, trailer) -> bytes:
    """A signed body under the store's own key."""
    import tests.storage.test_awschunked as vectors

    saved = vectors.chain
    vectors.chain = lambda _: link
    try:
        return signed_body(payload, "", 65_536, trailer)
    finally:
        vectors.chain = saved


@pytest.mark.parametrize(
    ("kind", "headers", "body", "status", "code"),
    [
        (PayloadKind.CHUNKS_UNSIGNED_TRAILER, TRAILER, unsigned_body(DATA)[:-10], 400, "IncompleteBody"),
        (
            PayloadKind.CHUNKS_UNSIGNED_TRAILER,
            TRAILER,
            unsigned_body(DATA).replace(CRC.encode(), b"AAAAAA=="),
            400,
            "BadDigest",
        ),
        (
            PayloadKind.CHUNKS_UNSIGNED_TRAILER,
            TRAILER,
            unsigned_body(DATA).replace(CRC.encode(), b"AAAA"),
            400,
            "BadDigest",
        ),
        (PayloadKind.CHUNKS_UNSIGNED_TRAILER, TRAILER, unsigned_body(DATA[:-1]), 400, "IncompleteBody"),
        (PayloadKind.CHUNKS_UNSIGNED_TRAILER, TRAILER, DATA, 400, "IncompleteBody"),
        (
            PayloadKind.CHUNKS_UNSIGNED_TRAILER,
            {"x-amz-trailer": "x-amz-checksum-crc32"},
            b"0\r\n\r\n",
            400,
            "MalformedTrailerError",
        ),
        (
            PayloadKind.CHUNKS_UNSIGNED_TRAILER,
            LENGTH | {"x-amz-trailer": "x-amz-meta-a"},
            b"",
            400,
            "InvalidRequest",
        ),
        (PayloadKind.CHUNKS_SIGNED, TRAILER, b"", 400, "InvalidRequest"),
        (
            PayloadKind.CHUNKS_SIGNED,
            LENGTH,
            b"2bc00;chunk-signature=" + b"0" * 64 + b"\r\n" + DATA + b"\r\n",
            403,
            "SignatureDoesNotMatch",
        ),
        (PayloadKind.UNSIGNED, {}, unsigned_body(DATA), 400, "InvalidRequest"),
    ],
)
def test_bad_streaming_bodies(store, raw, nothing_left, kind, headers, body, status, code):
    got = put_chunked(store, "bad", kind, headers, lambda _: body)

    assert got[0] == status
    assert f"<Code>{code}</Code>".encode() in got[1]
    assert raw.get("models", "bad").status == 404


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"content-md5": MD5}, 200, ""),
        ({"content-md5": base64.b64encode(bytes(16)).decode()}, 400, "BadDigest"),
        ({"content-md5": "x"}, 400, "InvalidDigest"),
        ({"x-amz-checksum-crc32": CRC}, 200, ""),
        ({"x-amz-checksum-crc32": "AAAAAA=="}, 400, "BadDigest"),
        ({"x-amz-checksum-crc32": "AAAA"}, 400, "BadDigest"),
        ({"x-amz-checksum-crc64nvme": "AAAAAAAAAAA="}, 400, "BadDigest"),
        ({"x-amz-checksum-md4": "AAAAAA=="}, 400, "InvalidRequest"),
        ({"x-amz-checksum-crc32": CRC, "x-amz-checksum-crc32c": CRC}, 400, "InvalidRequest"),
        ({"x-amz-content-sha256": ""}, 400, "InvalidArgument"),
        ({"x-amz-meta-big": "x" * 2048}, 400, "MetadataTooLarge"),
    ],
)
def test_checks_of_a_body(raw, headers, status, code):
    key = f"checked-{abs(hash(tuple(headers.items())))}"
    payload = {"payload": headers.pop("x-amz-content-sha256")} if "x-amz-content-sha256" in headers else {}

    answer = raw.send("PUT", f"/models/{key}", "", headers, DATA, **payload)

    assert (answer.status, answer.code) == (status, code)
    assert raw.get("models", key).status == (200 if status == 200 else 404)


def test_a_body_that_is_not_the_signed_one(raw, nothing_left):
    answer = raw.send("PUT", "/models/other", "", {}, DATA, payload=hashlib.sha256(b"x").hexdigest())

    assert (answer.status, answer.code) == (400, "XAmzContentSHA256Mismatch")
    assert raw.get("models", "other").status == 404


def test_a_body_without_a_length(store, raw):
    signed = dict(sign(store.endpoint(), "PUT", "/models/nolength"))

    answer = raw.send_as_is(
        "PUT", "/models/nolength", "", signed | {"transfer-encoding": "chunked"}, b"0\r\n\r\n"
    )

    assert (answer.status, answer.code) == (411, "MissingContentLength")


def early_answer(store, method: str, target: str, size: int, headers=(), spoil=lambda head: head) -> bytes:
    """What a client that waits for `100 Continue` gets to see."""
    path, _, query = target.partition("?")
    head = "".join(
        f"{name}: {value}\r\n" for name, value in sign(store.endpoint(), method, path, query, headers)
    )
    with socket.create_connection(("127.0.0.1", store.port), timeout=60) as sock:
        more = f"content-length: {size}\r\nexpect: 100-continue\r\n\r\n"
        sock.sendall(f"{method} {target} HTTP/1.1\r\n{spoil(head)}{more}".encode())
        return sock.recv(10_000)


@pytest.mark.parametrize(
    ("method", "target", "size"),
    [
        ("PUT", "/models/huge", 5 * 1024**3 + 1),
        ("POST", "/models?delete=", 9 << 20),
        ("PUT", "/made", 9 << 20),
    ],
)
def test_a_body_that_is_too_large_is_refused_before_it_is_sent(store, method, target, size):
    got = early_answer(store, method, target, size)

    assert got.startswith(b"HTTP/1.1 400 ")
    assert b"EntityTooLarge" in got


def test_a_bad_signature_gets_no_continue(store):
    got = early_answer(
        store, "PUT", "/models/a", 5, spoil=lambda head: head.replace("Signature=", "Signature=0")
    )

    assert got.startswith(b"HTTP/1.1 403 ")


def test_a_failed_condition_gets_no_continue(store, raw):
    raw.put("models", "exists", b"x")

    got = early_answer(store, "PUT", "/models/exists", 5, (("if-none-match", "*"),))

    assert got.startswith(b"HTTP/1.1 412 ")


def test_a_good_request_is_told_to_go_on(store):
    assert early_answer(store, "PUT", "/models/goon", 5) == b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.mark.parametrize("sent_bytes", [0, 10, 2_000_000])
def test_a_client_that_goes_away_leaves_nothing(store, raw, nothing_left, sent_bytes):
    head = "".join(f"{name}: {value}\r\n" for name, value in sign(store.endpoint(), "PUT", "/models/half"))
    with socket.create_connection(("127.0.0.1", store.port)) as sock:
        sock.sendall(f"PUT /models/half HTTP/1.1\r\n{head}content-length: 3000000\r\n\r\n".encode())
        sock.sendall(os.urandom(sent_bytes))

    assert raw.get("models", "half").status == 404


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/models/" + "k" * 1025, "KeyTooLongError"),
        ("/models/" + quote("ä" * 513), "KeyTooLongError"),
        ("/models/a%00b", "InvalidArgument"),
        ("/models/..", "InvalidArgument"),
        ("/models/a/../../b", "InvalidArgument"),
        ("/models/%2e%2e/b", "InvalidArgument"),
        ("/models/%2e%2e%2fb", "InvalidArgument"),
        ("/models/%ff", "InvalidURI"),
        ("/../etc/passwd", "InvalidBucketName"),
        ("/%2e%2e/a", "InvalidBucketName"),
        ("//a", "InvalidBucketName"),
    ],
)
def test_bad_names(raw, nothing_left, path, code):
    for method in ("PUT", "GET", "DELETE"):
        answer = raw.send(method, path, "", {}, b"x" if method == "PUT" else b"")
        assert (answer.status, answer.code) == (400, code)


@pytest.mark.parametrize(
    "key",
    ["k" * 1024, "a//b", "/lead", "trail/", "%2e%2e", "e\u0301", "\u00e9", "a\x01\n", "..a", "a:b?c#d&e=f"],
)
def test_odd_names_are_names(raw, key):
    assert raw.put("models", key, key.encode()).status == 200
    assert raw.get("models", key).body == key.encode()


def test_a_bomb_of_a_document(raw):
    bomb = b'<!DOCTYPE a [<!ENTITY b "' + b"b" * 10_000 + b'">]><Delete>' + b"&b;" * 100_000 + b"</Delete>"

    answer = raw.send("POST", "/models", "delete=", {}, bomb)

    assert (answer.status, answer.code) == (400, "MalformedXML")


def test_old_requests_are_refused(store, raw):
    from datetime import UTC, datetime, timedelta

    answer = raw.send("GET", "/models/a", now=datetime.now(UTC) - timedelta(minutes=16))

    assert (answer.status, answer.code) == (403, "RequestTimeTooSkewed")


def test_uploads_at_once_keep_their_bytes_apart(store):
    wrong = []

    def send(n: int) -> None:
        with Raw(store.endpoint()) as raw:
            data = bytes([n]) * 1_300_000
            raw.put("models", f"apart-{n}", data)
            if raw.get("models", f"apart-{n}").body != data:
                wrong.append(n)

    threads = [threading.Thread(target=send, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []
