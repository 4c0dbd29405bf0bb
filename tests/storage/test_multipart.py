import hashlib
import os
import random
import threading
import time

import pytest
from botocore.exceptions import ClientError

from storage.checksum import crc64nvme, encode_digest
from tests.storage.stores import Raw, StoreThread, boto, settled_blobs

PART = os.urandom(100_000)


def part(n: int, size: int = len(PART)) -> bytes:
    return bytes([n % 256]) + PART[1:size]


def etag_of(*parts: bytes) -> str:
    return hashlib.md5(b"".join(hashlib.md5(p).digest() for p in parts)).hexdigest() + f"-{len(parts)}"


def extents(store: StoreThread, key: str) -> list:
    import json
    import sqlite3

    db = sqlite3.connect(store.settings.root / "meta.db")
    (found,) = db.execute("SELECT extents FROM objects WHERE key = ?", (key.encode(),)).fetchone()
    db.close()
    return json.loads(found)


def test_parts_out_of_order_make_one_piece(small, small_store):
    upload = small.create_upload("models", "ooo", content_type="x/y", x_amz_meta_a="b")
    sent = {n: part(n) for n in range(1, 9)} | {9: part(9, 10)}
    order = [1, *random.sample(range(2, 10), 8)]
    etags = {n: small.put_part("models", "ooo", upload, n, sent[n]).headers["etag"] for n in order}

    done = small.complete("models", "ooo", upload, sorted(etags.items()))
    got = small.get("models", "ooo")

    whole = b"".join(sent[n] for n in sorted(sent))
    assert done.status == 200
    assert got.body == whole
    assert got.headers["etag"] == f'"{etag_of(*(sent[n] for n in sorted(sent)))}"'
    assert (got.headers["content-type"], got.headers["x-amz-meta-a"]) == ("x/y", "b")
    assert len(extents(small_store, "ooo")) == 1
    assert small.get("models", "ooo", range="bytes=99990-100009").body == whole[99_990:100_010]


def test_parts_without_a_checksum_of_their_own_are_read_back_with_the_whole_ones(small):
    """The official SDKs check what they read; a wrong CRC64NVME makes good bytes unreadable to them."""
    upload = small.create_upload("models", "plain")
    etags = [(n, small.put_part("models", "plain", upload, n, part(n)).headers["etag"]) for n in (1, 2, 3)]
    small.complete("models", "plain", upload, etags)
    whole = crc64nvme()
    whole.update(part(1) + part(2) + part(3))

    got = small.get("models", "plain", x_amz_checksum_mode="ENABLED")

    assert got.headers["x-amz-checksum-crc64nvme"] == encode_digest(whole.digest())


def test_a_part_that_comes_again_replaces_the_first(small):
    upload = small.create_upload("models", "again")
    small.put_part("models", "again", upload, 1, part(1))
    second = small.put_part("models", "again", upload, 2, part(2)).headers["etag"]
    first = small.put_part("models", "again", upload, 1, part(7)).headers["etag"]

    stale = small.complete("models", "again", upload, [(1, hashlib.md5(part(1)).hexdigest()), (2, second)])
    done = small.complete("models", "again", upload, [(1, first), (2, second)])

    assert (stale.status, stale.code) == (400, "InvalidPart")
    assert done.status == 200
    assert small.get("models", "again").body == part(7) + part(2)


def test_sizes_of_all_kinds_fall_back_to_pieces(small, small_store):
    upload = small.create_upload("models", "odd")
    sent = [part(1, 50), part(2, 70), part(3, 50), part(4, 10), part(5, 0)]
    parts = [
        (n, small.put_part("models", "odd", upload, n, data).headers["etag"])
        for n, data in enumerate(sent, 1)
    ]

    assert small.complete("models", "odd", upload, parts).status == 200
    whole = b"".join(sent)
    assert small.get("models", "odd").body == whole
    assert len(extents(small_store, "odd")) > 1
    for low in range(0, len(whole), 13):
        assert small.get("models", "odd", range=f"bytes={low}-{low + 29}").body == whole[low : low + 30]


def test_only_named_parts_count(small):
    upload = small.create_upload("models", "some")
    etags = {n: small.put_part("models", "some", upload, n, part(n)).headers["etag"] for n in (1, 2, 3, 5)}

    assert small.complete("models", "some", upload, [(1, etags[1]), (5, etags[5])]).status == 200

    assert small.get("models", "some").body == part(1) + part(5)


def test_completing_twice_gives_the_same_answer(small):
    upload = small.create_upload("models", "twice")
    parts = [(1, small.put_part("models", "twice", upload, 1, part(1)).headers["etag"])]

    first, second = (small.complete("models", "twice", upload, parts) for _ in range(2))

    assert first.status == second.status == 200
    assert first.body == second.body


def test_bad_completions(small, raw):
    upload = small.create_upload("models", "bad")
    etags = [small.put_part("models", "bad", upload, n, part(n)).headers["etag"] for n in (1, 2)]

    assert small.complete("models", "bad", upload, [(2, etags[1]), (1, etags[0])]).code == "InvalidPartOrder"
    assert small.complete("models", "bad", upload, [(1, etags[0]), (1, etags[0])]).code == "InvalidPartOrder"
    assert small.complete("models", "bad", upload, [(3, etags[0])]).code == "InvalidPart"
    assert small.complete("models", "bad", upload, []).code == "MalformedXML"
    assert small.complete("models", "bad", "0" * 32, [(1, etags[0])]).code == "NoSuchUpload"
    assert small.complete("models", "other", upload, [(1, etags[0])]).code == "NoSuchUpload"
    assert small.get("models", "bad").status == 404
    big = raw.create_upload("models", "bad")
    tags = [raw.put_part("models", "bad", big, n, part(n)).headers["etag"] for n in (1, 2)]
    assert raw.complete("models", "bad", big, [(1, tags[0]), (2, tags[1])]).code == "EntityTooSmall"


def test_conditional_completions(small):
    small.put("models", "taken", b"x")
    upload = small.create_upload("models", "taken")
    parts = [(1, small.put_part("models", "taken", upload, 1, part(1)).headers["etag"])]

    assert small.complete("models", "taken", upload, parts, if_none_match="*").status == 412
    assert (
        small.complete("models", "taken", upload, parts, if_match=f'"{hashlib.md5(b"x").hexdigest()}"').status
        == 200
    )
    assert small.get("models", "taken").body == part(1)


@pytest.mark.parametrize("number", ["0", "10001", "-1", "x", ""])
def test_bad_part_numbers(small, number):
    upload = small.create_upload("models", "numbers")

    answer = small.send("PUT", "/models/numbers", f"partNumber={number}&uploadId={upload}", {}, b"x")

    assert (answer.status, answer.code) == (400, "InvalidArgument")


def test_aborting_leaves_nothing(small_s3, small_store, small):
    before = settled_blobs(small_store.settings.root)
    upload = small.create_upload("models", "given-up")
    for n, size in ((1, 100), (2, 100), (3, 200)):
        small.put_part("models", "given-up", upload, n, part(n, size))
    assert set(small_store.settings.root.glob("blobs/*/*")) > before

    small_s3.abort_multipart_upload(Bucket="models", Key="given-up", UploadId=upload)

    assert settled_blobs(small_store.settings.root) == before
    assert small.put_part("models", "given-up", upload, 1, b"x").code == "NoSuchUpload"
    with pytest.raises(ClientError):
        small_s3.list_parts(Bucket="models", Key="given-up", UploadId=upload)


def test_listing_parts_and_uploads(small_s3, small):
    small_s3.create_bucket(Bucket="uploads")
    uploads = {(key, small.create_upload("uploads", key)) for key in ("a/1", "a/1", "a/2", "b", "c d")}
    upload = next(u for k, u in uploads if k == "b")
    for n in (3, 1, 7):
        small.put_part("uploads", "b", upload, n, part(n, 10 + n))

    parts = small_s3.list_parts(Bucket="uploads", Key="b", UploadId=upload)
    page = small_s3.list_parts(Bucket="uploads", Key="b", UploadId=upload, MaxParts=2)
    rest = small_s3.list_parts(
        Bucket="uploads", Key="b", UploadId=upload, PartNumberMarker=page["NextPartNumberMarker"]
    )
    pages = small_s3.get_paginator("list_multipart_uploads")

    assert [(row["PartNumber"], row["Size"]) for row in parts["Parts"]] == [(1, 11), (3, 13), (7, 17)]
    assert page["IsTruncated"]
    assert [row["PartNumber"] for row in rest["Parts"]] == [7]
    for size in (1, 2, 1000):
        found = [
            (row["Key"], row["UploadId"])
            for each in pages.paginate(Bucket="uploads", PaginationConfig={"PageSize": size})
            for row in each.get("Uploads", [])
        ]
        assert len(found) == 5
        assert set(found) == uploads
    top = small_s3.list_multipart_uploads(Bucket="uploads", Delimiter="/")
    assert [row["Prefix"] for row in top["CommonPrefixes"]] == ["a/"]


@pytest.mark.parametrize(
    ("algorithm", "kind"),
    [
        ("CRC32", "COMPOSITE"),
        ("CRC32", "FULL_OBJECT"),
        ("CRC32C", None),
        ("CRC64NVME", None),
        ("SHA1", None),
        ("SHA256", None),
    ],
)
def test_checksums_of_parts(small_s3, algorithm, kind):
    declared = {"ChecksumAlgorithm": algorithm} | ({"ChecksumType": kind} if kind else {})
    upload = small_s3.create_multipart_upload(Bucket="models", Key="summed", **declared)["UploadId"]
    rows = []
    for n in (1, 2):
        done = small_s3.upload_part(
            Bucket="models",
            Key="summed",
            UploadId=upload,
            PartNumber=n,
            Body=part(n),
            ChecksumAlgorithm=algorithm,
        )
        rows.append(
            {"PartNumber": n, "ETag": done["ETag"], f"Checksum{algorithm}": done[f"Checksum{algorithm}"]}
        )

    done = small_s3.complete_multipart_upload(
        Bucket="models", Key="summed", UploadId=upload, MultipartUpload={"Parts": rows}
    )
    got = small_s3.get_object(Bucket="models", Key="summed", ChecksumMode="ENABLED")

    assert got["Body"].read() == part(1) + part(2)
    assert done[f"Checksum{algorithm}"] == got[f"Checksum{algorithm}"]
    composite = (kind or {"CRC64NVME": "FULL_OBJECT"}.get(algorithm, "COMPOSITE")) == "COMPOSITE"
    assert got[f"Checksum{algorithm}"].endswith("-2") == composite
    second = small_s3.get_object(Bucket="models", Key="summed", PartNumber=2, ChecksumMode="ENABLED")
    assert second["Body"].read() == part(2)
    assert second[f"Checksum{algorithm}"] == rows[1][f"Checksum{algorithm}"]


def test_a_wrong_object_checksum_is_refused(small_s3):
    upload = small_s3.create_multipart_upload(
        Bucket="models", Key="wrong", ChecksumAlgorithm="CRC32", ChecksumType="FULL_OBJECT"
    )["UploadId"]
    done = small_s3.upload_part(Bucket="models", Key="wrong", UploadId=upload, PartNumber=1, Body=part(1))

    with pytest.raises(ClientError) as error:
        small_s3.complete_multipart_upload(
            Bucket="models",
            Key="wrong",
            UploadId=upload,
            MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": done["ETag"]}]},
            ChecksumCRC32="AAAAAA==",
            ChecksumType="FULL_OBJECT",
        )

    assert error.value.response["Error"]["Code"] == "BadDigest"


def test_many_parts_at_once_share_the_slab(small_store):
    upload_parts = {n: part(n) for n in range(1, 33)}
    with Raw(small_store.endpoint()) as raw:
        upload = raw.create_upload("models", "busy")
        raw.put_part("models", "busy", upload, 1, upload_parts[1])
    etags = {}

    def send(numbers):
        with Raw(small_store.endpoint()) as connection:
            for n in numbers:
                etags[n] = connection.put_part("models", "busy", upload, n, upload_parts[n]).headers["etag"]

    threads = [threading.Thread(target=send, args=(range(1 + k, 33, 4),)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Raw(small_store.endpoint()) as raw:
        assert raw.complete("models", "busy", upload, sorted(etags.items())).status == 200
        assert raw.get("models", "busy").body == b"".join(upload_parts[n] for n in sorted(upload_parts))


def test_a_last_part_that_overtakes_does_not_break_the_piece(small, small_store):
    upload = small.create_upload("models", "overtaken")
    sent = {1: part(1), 2: part(2), 3: part(3, 1234)}
    etags = {}

    def send(number: int) -> None:
        with Raw(small_store.endpoint()) as connection:
            etags[number] = connection.put_part("models", "overtaken", upload, number, sent[number]).headers[
                "etag"
            ]

    threads = [threading.Thread(target=send, args=(n,)) for n in (3, 2, 1)]
    for thread in threads:
        thread.start()
        time.sleep(0.03)
    for thread in threads:
        thread.join()

    assert small.complete("models", "overtaken", upload, sorted(etags.items())).status == 200
    assert small.get("models", "overtaken").body == sent[1] + sent[2] + sent[3]
    assert (
        len(extents(small_store, "overtaken")) <= 2
    )  # 1 unless the machine was too busy to hear all in time


def test_places_in_a_slab(tmp_path):
    from storage.disk.blobs import Blobs
    from storage.disk.slabs import Slabs
    from storage.disk.writers import BlobWriter, SlabWriter
    from storage.index.database import Index
    from storage.index.rows import UploadRow

    index = Index(tmp_path / "meta.db")
    slabs = Slabs(index, Blobs(tmp_path, index.epoch))

    def places(upload_id: str, *parts: tuple[int, int]) -> list[int | None]:
        upload = UploadRow(upload_id, "models", "k", 0, (), None, None, f"{1:032x}")
        for number, size in parts:
            slabs.announce(upload, number, size)
        found = []
        for number, size in parts:
            writer = slabs.writer(upload, number, size)
            assert isinstance(writer, SlabWriter | BlobWriter)
            found.append(writer.offset if isinstance(writer, SlabWriter) else None)
            if isinstance(writer, BlobWriter):
                writer.abort()
        return found

    mib = 1 << 20
    assert places("in-order", (1, 8 * mib), (2, 8 * mib), (3, 77)) == [0, 8 * mib, 16 * mib]
    assert places("last-first", (3, 77), (1, 8 * mib), (2, 8 * mib)) == [16 * mib, 0, 8 * mib]
    assert places("last-alone", (3, 77)) == [None]
    assert places("last-alone", (1, 8 * mib), (2, 8 * mib)) == [0, 8 * mib]
    assert places("again", (1, mib), (1, mib), (2, 2 * mib)) == [0, None, 2 * mib]
    assert places("too-far", (10_000, 1024 * mib)) == [None]
    index.close()


def test_an_upload_goes_on_after_a_restart(tmp_path):
    store = StoreThread(tmp_path, min_part_bytes=1)
    with Raw(store.endpoint()) as raw:
        raw.send("PUT", "/models")
        upload = raw.create_upload("models", "k")
        etags = {2: raw.put_part("models", "k", upload, 2, part(2)).headers["etag"]}
    store.stop()
    store = StoreThread(tmp_path, min_part_bytes=1)
    with Raw(store.endpoint()) as raw:
        for n in (1, 3):
            etags[n] = raw.put_part("models", "k", upload, n, part(n)).headers["etag"]
        raw.put_part("models", "k", upload, 2, part(9))
        etags[2] = raw.put_part("models", "k", upload, 2, part(2)).headers["etag"]
        assert raw.complete("models", "k", upload, sorted(etags.items())).status == 200
        assert raw.get("models", "k").body == part(1) + part(2) + part(3)
    store.stop()


def test_boto_transfers_both_ways(store, tmp_path):
    data = os.urandom(20_000_000)
    (tmp_path / "up").write_bytes(data)
    client = boto(store.endpoint())
    client.upload_file(str(tmp_path / "up"), "models", "transfer")
    client.download_file("models", "transfer", str(tmp_path / "down"))
    client.close()

    assert (tmp_path / "down").read_bytes() == data
