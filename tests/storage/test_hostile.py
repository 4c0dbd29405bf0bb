"""Requests made to hurt: each is refused in S3's words, changes nothing, and the store answers the next one."""

import asyncio
import hashlib
import shutil
import socket
import time
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from storage import run
from storage.client.sdk import sign
from tests.storage.stores import READER, TENANT, Raw, StoreThread, memory_folder

LAUGHS = (
    b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "ha">'
    + b"".join(b'<!ENTITY %c "&%c;&%c;">' % (97 + n, 96 + n, 96 + n) for n in range(1, 25))
    + b"]><%b>&y;</%b>"
)


def head_of(store: StoreThread, method: str, target: str, *headers: tuple[str, str]) -> bytes:
    path, _, query = target.partition("?")
    lines = [f"{name}: {value}\r\n" for name, value in sign(store.endpoint(), method, path, query, headers)]
    return f"{method} {target} HTTP/1.1\r\n{''.join(lines)}\r\n".encode()


async def status_of(store: StoreThread, data: bytes, *, ends: bool = True) -> int:
    """What comes back on a connection of its own; 0 if it was closed without a word."""
    reader, writer = await asyncio.open_connection("127.0.0.1", store.port)
    writer.write(data)
    if ends:  # a head that a change made unfinished is then over
        writer.write_eof()
    line = await reader.readline()
    writer.close()
    return int(line.split()[1]) if line else 0


async def test_every_changed_byte_of_a_signed_head_is_refused(store, raw):
    """But for the version digit, which HTTP does not let one sign, each byte of line, names and values counts."""
    await asyncio.to_thread(raw.put, "models", "kept", b"kept")
    head = head_of(store, "DELETE", "/models/kept", ("x-amz-meta-a", "b c"), ("range", "bytes=0-1"))
    version = head.index(b"HTTP/1.1")
    changed = {
        (at, flip): head[:at] + bytes([head[at] ^ flip]) + head[at + 1 :]
        for at in range(len(head) - 4)
        for flip in (1, 64)
        if at not in range(version, version + 8)
    }
    statuses = {}
    for which, data in changed.items():
        statuses[which] = await status_of(store, data)
    refusals = {400, 403, 404, 501, 505}  # 501: a method that nobody has; 505: a version
    fine = {
        which: (status, head[max(which[0] - 8, 0) : which[0] + 8])
        for which, status in statuses.items()
        if status not in refusals
    }

    assert len(changed) > 400
    assert fine == {}
    assert (await asyncio.to_thread(raw.get, "models", "kept")).body == b"kept"
    assert await status_of(store, head, ends=False) == 204


@pytest.mark.parametrize("change", ["body", "path", "method", "query"])
def test_a_replayed_signature_is_good_for_its_request_only(store, raw, change):
    """Sent again as it was, within fifteen minutes, it does the same again, as on S3; anything else it does not do."""
    body = b"signed body"
    signed = dict(sign(store.endpoint(), "PUT", "/models/replay", "", (), hashlib.sha256(body).hexdigest()))
    first = raw.send_as_is("PUT", "/models/replay", "", signed, body)
    again = raw.send_as_is("PUT", "/models/replay", "", signed, body)
    asked = {
        "body": ("PUT", "/models/replay", "", signed, b"signed bodY"),
        "path": ("PUT", "/models/replaz", "", signed, body),
        "method": ("DELETE", "/models/replay", "", signed, b""),
        "query": ("PUT", "/models/replay", "x=1", signed, body),
    }[change]
    other = raw.send_as_is(*asked)

    assert (first.status, again.status) == (200, 200)
    expected = (400, "XAmzContentSHA256Mismatch") if change == "body" else (403, "SignatureDoesNotMatch")
    assert (other.status, other.code) == expected
    assert raw.get("models", "replay").body == body
    assert raw.get("models", "replaz").status == 404


@pytest.mark.parametrize(
    "headers",
    [
        b"x-amz-meta-a: " + b"a" * 100_000 + b"\r\n",
        b"".join(b"x-amz-meta-%d: a\r\n" % n for n in range(1000)),
        b"x-amz-meta-a: b\r\n" * 200,
    ],
)
async def test_huge_heads_are_refused(store, raw, headers):
    head = head_of(store, "PUT", "/models/hugehead").removesuffix(b"\r\n")
    status = await status_of(store, head + headers + b"content-length: 0\r\n\r\n")

    assert 400 <= status < 500
    assert (await asyncio.to_thread(raw.get, "models", "hugehead")).status == 404


def test_too_much_metadata_is_named(raw):
    answer = raw.put("models", "meta", b"x", x_amz_meta_a="a" * 2050)

    assert (answer.status, answer.code) == (400, "MetadataTooLarge")
    assert raw.get("models", "meta").status == 404


@pytest.fixture
def impatient(monkeypatch):
    """A store that forgives a slow body less, so that the test is quick; the bound is the one of every listener."""
    monkeypatch.setattr(run, "LIMITS", replace(run.LIMITS, body_grace_s=0.3, head_s=0.5))
    store = StoreThread(memory_folder())
    with Raw(store.endpoint()) as raw:
        raw.send("PUT", "/models")
    yield store
    store.stop()
    shutil.rmtree(store.settings.root)


@pytest.mark.parametrize(
    ("method", "target"), [("PUT", "/models/slow"), ("POST", "/models?delete="), ("PUT", "/slowbucket")]
)
def test_a_slow_body_is_given_up(impatient, method, target):
    head = head_of(impatient, method, target).removesuffix(b"\r\n") + b"content-length: 200000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", impatient.port), timeout=60) as sock:
        sock.sendall(head)
        began_s = time.monotonic()
        got = drip(sock)
        took_s = time.monotonic() - began_s

    assert b"<Code>RequestTimeout</Code>" in got
    assert took_s < 15  # of the 300 drips that it would hear
    with Raw(impatient.endpoint()) as raw:
        assert raw.get("models", "slow").status == 404
        assert list((impatient.settings.root / "tmp").iterdir()) == []


def drip(sock: socket.socket) -> bytes:
    """A byte now and then until an answer comes."""
    sock.settimeout(0.05)
    for _ in range(300):
        try:
            return sock.recv(10_000)
        except TimeoutError:
            sock.sendall(b"x")
    return b""


def test_a_slow_head_is_given_up(impatient):
    with socket.create_connection(("127.0.0.1", impatient.port), timeout=60) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nhost: ")
        got = drip(sock)

    assert got == b"" or got.startswith(b"HTTP/1.1 408 ")
    with Raw(impatient.endpoint()) as raw:
        assert raw.send("GET", "/").status == 200


@pytest.mark.parametrize(
    ("method", "path", "query", "root"),
    [
        ("POST", "/models", "delete=", b"Delete"),
        ("POST", "/models/bomb", "uploadId={upload}", b"CompleteMultipartUpload"),
    ],
)
def test_laughing_documents(raw, method, path, query, root):
    """Entities that grow to 2 ** 24 words are not looked at, however small the document is."""
    upload = raw.create_upload("models", "bomb")
    began_s = time.process_time()
    answer = raw.send(method, path, query.format(upload=upload), {}, LAUGHS.replace(b"%b", root))

    assert (answer.status, answer.code) == (400, "MalformedXML")
    assert time.process_time() - began_s < 10  # grown, it would be gigabytes


@pytest.mark.parametrize("depth", [100_000])
def test_deep_documents(raw, depth):
    answer = raw.send("POST", "/models", "delete=", {}, b"<Delete>" + b"<a>" * depth)

    assert (answer.status, answer.code) == (400, "MalformedXML")
    assert raw.send("GET", "/").status == 200


@pytest.mark.parametrize(
    ("asked", "low", "high"),
    [
        ("bytes=0-99999999999999999999", 0, 10),
        ("bytes=4-18446744073709551616", 4, 10),
        ("bytes=4-" + "9" * 4000, 4, 10),
        ("bytes=-99999999999999999999", 0, 10),
        ("bytes=00000000000000000000001-2", 1, 3),
    ],
)
def test_a_range_beyond_the_end_gives_what_there_is(raw, asked, low, high):
    raw.put("models", "ten", b"0123456789")

    answer = raw.get("models", "ten", range=asked)

    assert (answer.status, answer.body) == (206, b"0123456789"[low:high])
    assert answer.headers["content-range"] == f"bytes {low}-{high - 1}/10"


@pytest.mark.parametrize(
    "asked", ["bytes=99999999999999999999-", "bytes=10-99999999999999999999", "bytes=-0"]
)
def test_a_range_that_begins_beyond_the_end(raw, asked):
    raw.put("models", "ten", b"0123456789")

    answer = raw.get("models", "ten", range=asked)

    assert (answer.status, answer.code) == (416, "InvalidRange")


def test_the_right_of_one_key_is_not_lent_to_another(store):
    """A reader's signature with the writer's id, and the other way round."""
    reader, tenant = store.endpoint(READER), store.endpoint(TENANT)
    mixed = replace(reader, access_key=tenant.access_key)
    with Raw(mixed) as raw:
        answer = raw.put("models", "acme/x", b"x")

    assert (answer.status, answer.code) == (403, "SignatureDoesNotMatch")


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"GARBAGE\r\n\r\n", 501, "NotImplemented"),
        (b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400, "BadRequest"),
        (b"CONNECT a:1 HTTP/1.1\r\nhost: x\r\n\r\n", 405, "MethodNotAllowed"),
        (b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 100_000, 431, "RequestHeaderSectionTooLarge"),
    ],
)
async def test_what_no_handler_sees_is_refused_in_xml_too(store, sent, status, code):
    """It was JSON in OpenAI's shape, of which an S3 client makes `Unknown error`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", store.port)
    writer.write(sent)
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    told = ET.fromstring(body)

    assert int(head.split()[1]) == status
    assert b"content-type: application/xml" in head
    assert (told.tag, told.findtext("Code")) == ("Error", code)
    assert told.findtext("Message")
