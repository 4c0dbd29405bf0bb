"""What an ETag is made of: MD5 for whoever may look for it, BLAKE3 for large bodies that come with a CRC64NVME."""

import base64
import hashlib
import os
import time
import zlib

import pytest
from blake3 import blake3

from storage.auth.canonical import PayloadKind
from storage.checksum import crc64nvme, encode_digest
from storage.http.bodyplan import OWN_ETAG_BYTES
from storage.sharing.sharer import MIN_BYTES
from tests.storage.stores import Raw, StoreThread, settled_blobs
from tests.storage.test_bodies import put_chunked, rekeyed

LARGE = os.urandom(OWN_ETAG_BYTES)
LONG = LARGE * 3 + b"not a whole number of pieces"
UNSIGNED = "UNSIGNED-PAYLOAD"


def crc64(data):
    crc = crc64nvme()
    crc.update(data)
    return encode_digest(crc.digest())


def md5_tag(data):
    return f'"{hashlib.md5(data).hexdigest()}"'


def own_tag(data):
    return f'"{blake3(data).hexdigest()[:32]}-1"'


def put(raw, key, data, headers, query=""):
    return raw.send("PUT", f"/models/{key}", query, headers, data, payload=UNSIGNED)


def crc64_header(data):
    return {"x-amz-checksum-crc64nvme": crc64(data)}


MD5 = {"content-md5": base64.b64encode(hashlib.md5(LARGE).digest()).decode()}
CRC32 = {"x-amz-checksum-crc32": base64.b64encode(zlib.crc32(LARGE).to_bytes(4, "big")).decode()}
SMALLER = LARGE[:-1]


@pytest.mark.parametrize(
    ("data", "headers", "tag"),
    [
        (LARGE, crc64_header(LARGE), own_tag(LARGE)),
        (LONG, crc64_header(LONG), own_tag(LONG)),
        (SMALLER, crc64_header(SMALLER), md5_tag(SMALLER)),
        (LARGE, crc64_header(LARGE) | MD5, md5_tag(LARGE)),
        (LARGE, CRC32, md5_tag(LARGE)),
        (LARGE, {}, md5_tag(LARGE)),
        (LONG, {}, md5_tag(LONG)),
    ],
    ids=["crc64nvme", "long", "smaller", "with md5", "crc32", "plain", "long and plain"],
)
def test_the_etag_of_a_put(raw, data, headers, tag):
    done = put(raw, "etag", data, headers)
    got = raw.get("models", "etag")
    listed = raw.send("GET", "/models", "prefix=etag").body

    assert (done.status, done.headers["etag"]) == (200, tag)
    assert got.body == data
    assert got.headers["etag"] == raw.send("HEAD", "/models/etag").headers["etag"] == tag
    assert tag.strip('"').encode() in listed
    assert raw.get("models", "etag", if_match=tag, range="bytes=5-9").body == data[5:10]
    assert raw.get("models", "etag", if_match=own_tag(b"")).status == 412
    assert raw.get("models", "etag", if_none_match=tag).status == 304


@pytest.mark.parametrize("kind", [PayloadKind.CHUNKS_SIGNED_TRAILER, PayloadKind.CHUNKS_UNSIGNED_TRAILER])
def test_the_etag_of_a_body_with_a_trailer(store, raw, kind):
    name, value = "x-amz-checksum-crc64nvme", crc64(LONG)
    headers = {"x-amz-decoded-content-length": str(len(LONG)), "x-amz-trailer": name}

    def body(link):
        if kind is PayloadKind.CHUNKS_SIGNED_TRAILER:
            return rekeyed(LONG, link, (name, value))
        return b"%x\r\n%b\r\n0\r\n%b:%b\r\n\r\n" % (len(LONG), LONG, name.encode(), value.encode())

    status, text = put_chunked(store, "trailed", kind, headers, body)
    got = raw.get("models", "trailed")

    assert (status, text) == (200, b"")
    assert got.body == LONG
    assert got.headers["etag"] == own_tag(LONG)


def test_a_wrong_checksum_leaves_nothing(store, raw):
    before = settled_blobs(store.settings.root)

    answer = put(raw, "wrong", LONG, crc64_header(LARGE))

    assert (answer.status, answer.code) == (400, "BadDigest")
    assert raw.get("models", "wrong").status == 404
    assert settled_blobs(store.settings.root) == before


def test_a_write_on_condition_of_such_an_etag(raw):
    put(raw, "moved", LONG, crc64_header(LONG))

    stale = put(raw, "moved", b"other", {"if-match": own_tag(LARGE)})
    done = put(raw, "moved", b"next", {"if-match": own_tag(LONG)})

    assert (stale.status, done.status) == (412, 200)
    assert raw.get("models", "moved").body == b"next"


def test_a_copy_keeps_it(raw):
    put(raw, "source", LONG, crc64_header(LONG))

    done = raw.send("PUT", "/models/target", "", {"x-amz-copy-source": "/models/source"})

    assert done.status == 200
    assert raw.get("models", "target").headers["etag"] == own_tag(LONG)


def test_parts_of_both_kinds_make_one_object(raw):
    """What the parts said goes back as it was, and the whole is of the usual form."""
    upload = raw.create_upload("models", "parts")
    bodies = {1: LARGE, 2: LARGE[::-1], 3: LARGE[:1000]}
    sums = {1: crc64_header(LARGE), 2: {}, 3: {}}
    tags = {
        number: put(raw, "parts", data, sums[number], query=f"partNumber={number}&uploadId={upload}").headers[
            "etag"
        ]
        for number, data in bodies.items()
    }
    names = (
        blake3(LARGE).digest()[:16],
        hashlib.md5(bodies[2]).digest(),
        hashlib.md5(bodies[3]).digest(),
    )

    done = raw.complete("models", "parts", upload, sorted(tags.items()))
    got = raw.get("models", "parts")

    assert tags[1] == own_tag(LARGE)
    assert done.status == 200
    assert got.body == b"".join(bodies.values())
    assert got.headers["etag"] == f'"{hashlib.md5(b"".join(names)).hexdigest()}-3"'


def test_equal_bytes_under_both_names_are_kept_once(tmp_path):
    assert len(LARGE) >= MIN_BYTES
    store = StoreThread(tmp_path / "store", share_bytes_per_s=1e12)
    with Raw(store.endpoint()) as raw:
        raw.send("PUT", "/models")
        put(raw, "named", LARGE, crc64_header(LARGE))
        put(raw, "md5", LARGE, {})
        for _ in range(600):
            if len(list((tmp_path / "store").glob("blobs/*/*"))) == 1:
                break
            time.sleep(0.05)
        assert len(list((tmp_path / "store").glob("blobs/*/*"))) == 1
        for key, tag in (("named", own_tag(LARGE)), ("md5", md5_tag(LARGE))):
            got = raw.get("models", key)
            assert (got.body == LARGE, got.headers["etag"]) == (True, tag)
    store.stop()
