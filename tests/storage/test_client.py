import asyncio
import os

import pytest

from storage.client.aws import new_client
from storage.client.once import Once
from storage.client.sdk import (
    S3,
    Endpoint,
    NotFound,
    PreconditionFailed,
    StoreError,
    Unreachable,
    upload_folder,
)

BIG = os.urandom(5_000_000)


@pytest.fixture
async def client(store):
    async with S3(store.endpoint()) as s3:
        yield s3


async def chunks(data: bytes, size: int = 700_001):
    for at in range(0, len(data), size):
        yield data[at : at + size]


async def test_documents(client):
    etag = await client.put("models", "doc", b"{}", content_type="application/json", metadata={"a": "b"})
    got = await client.get("models", "doc")
    part = await client.get("models", "doc", start=1, length=1, if_match=etag)
    entry = await client.head("models", "doc")

    assert (got.data, got.etag, got.size, got.metadata) == (b"{}", etag, 2, {"a": "b"})
    assert (part.data, part.size) == (b"}", 2)
    assert (entry.key, entry.size, entry.etag) == ("doc", 2, etag)


async def test_conditions(client):
    etag = await client.put("models", "pointer", b"1", if_none_match="*")
    with pytest.raises(PreconditionFailed):
        await client.put("models", "pointer", b"2", if_none_match=True)
    moved = await client.put("models", "pointer", b"2", if_match=etag)
    with pytest.raises(PreconditionFailed):
        await client.put("models", "pointer", b"3", if_match=etag)
    with pytest.raises(PreconditionFailed):
        await client.get("models", "pointer", if_match=etag)
    with pytest.raises(PreconditionFailed):
        await client.delete("models", "pointer", if_match=etag)
    await client.delete("models", "pointer", if_match=moved)
    with pytest.raises(NotFound):
        await client.head("models", "pointer")


async def test_streams(client):
    etag = await client.put_stream("models", "stream", chunks(BIG), len(BIG), part_bytes=5 << 20)
    got = b"".join([piece async for piece in client.stream("models", "stream", if_match=etag)])
    tail = b"".join([piece async for piece in client.stream("models", "stream", start=4_000_000, length=10)])

    assert got == BIG
    assert tail == BIG[4_000_000:4_000_010]


async def test_multipart_streams_and_files(client, tmp_path):
    data = BIG * 3
    sent = []
    (tmp_path / "f").write_bytes(data)
    etag = await client.put_file(
        "models", "file", tmp_path / "f", part_bytes=5 << 20, on_progress=sent.append
    )
    got = b"".join([piece async for piece in client.stream("models", "file")])

    assert got == data
    assert etag.endswith("-3")
    assert sum(sent) == len(data)


async def test_a_stream_that_breaks_leaves_nothing(client):
    async def broken():
        yield BIG
        yield BIG
        raise ValueError("bad block")

    with pytest.raises(ValueError, match="bad block"):
        await client.put_stream("models", "broken", broken(), 15_000_000, part_bytes=5 << 20)
    with pytest.raises(StoreError) as short:
        await client.put_stream("models", "broken", chunks(BIG * 2), 15_000_000, part_bytes=5 << 20)

    assert short.value.code == "IncompleteBody"
    assert await client.uploads("models", "broken") == ()
    with pytest.raises(NotFound):
        await client.head("models", "broken")


async def test_lists_uploads_and_copies(client, raw, bucket):
    for n in range(3):
        await client.put(bucket, f"a/{n}", b"x" * n)
    upload = raw.create_upload(bucket, "a/new")
    copied = await client.copy(
        bucket, "a/2", bucket, "b", source_if_match=(await client.head(bucket, "a/2")).etag
    )
    unfinished = await client.uploads(bucket, "a/")

    assert [(e.key, e.size) async for e in client.list(bucket, "a/")] == [("a/0", 0), ("a/1", 1), ("a/2", 2)]
    assert [e.key async for e in client.list(bucket, start_after="a/1")] == ["a/2", "b"]
    assert copied == (await client.head(bucket, "b")).etag
    assert [(u.key, u.upload_id) for u in unfinished] == [("a/new", upload)]


async def test_buckets_are_made_once(client):
    await client.ensure_bucket("ensured")
    await client.ensure_bucket("ensured")

    with pytest.raises(NotFound):
        await client.get("missing-bucket", "a")


async def test_large_documents_are_not_swallowed(client):
    await client.put("models", "large", b"x" * 1000)

    with pytest.raises(StoreError, match="TooLarge"):
        await client.get("models", "large", max_bytes=999)


async def test_no_store_is_unreachable(store):
    async with S3(Endpoint("http://127.0.0.1:9", "NFX", "x")) as nobody:
        with pytest.raises(Unreachable):
            await nobody.get("models", "a")
        with pytest.raises(Unreachable):
            await nobody.changes("models", 0, wait_s=0.0)
    async with S3(Endpoint(store.url, "NFADMIN", "wrong")) as stranger:
        with pytest.raises(StoreError) as error:
            await stranger.get("models", "a")
    assert error.value.status == 403


async def test_a_cut_stream_is_unreachable():
    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 200 OK\r\netag: "e"\r\ncontent-length: 1000\r\n\r\n' + b"x" * 500)
        await writer.drain()
        writer.close()

    got = bytearray()
    server = await asyncio.start_server(half, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async def read(s3: S3) -> None:
        async for piece in s3.stream("models", "big", chunk_bytes=100):
            got.extend(piece)

    async with server, S3(Endpoint(f"http://127.0.0.1:{port}", "NFX", "x")) as s3:
        with pytest.raises(Unreachable):
            await read(s3)

    assert got == b"x" * len(got)


def test_a_folder(store, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a").write_bytes(b"hello")
    (tmp_path / "sub/b").write_bytes(os.urandom(20_000_000))
    sent = {}

    def told(path: str, num_bytes: int) -> None:
        sent[path] = sent.get(path, 0) + num_bytes

    files = [("a", tmp_path / "a"), ("sub/b", tmp_path / "sub/b")]
    done = upload_folder(store.endpoint(), "models", "folder/x/", files, told)

    assert [(one.path, one.size) for one in done] == [("a", 5), ("sub/b", 20_000_000)]
    assert sent == {"a": 5, "sub/b": 20_000_000}
    with pytest.raises(NotFound):
        upload_folder(store.endpoint(), "no-such-bucket", "", files)


def test_secrets_do_not_show(store):
    assert store.endpoint().secret not in repr(store.endpoint())


async def test_what_is_written_once_is_never_written_over(store):
    """The same bytes again are no fault: who was killed before it heard that they are there asks again."""
    once = Once(store.endpoint())
    try:
        first = await once.put_once("models", "a b/c.jsonl", b"1\n")
        again = await once.put_once("models", "a b/c.jsonl", b"1\n")
        other = await once.put_once("models", "a b/c.jsonl", b"2\n")
        with pytest.raises(OSError, match="NoSuchBucket"):
            await once.put_once("nowhere", "c", b"1")
        for _ in range(2):
            await once.ensure_bucket("anywhere")
        assert await once.put_once("anywhere", "c", b"1")
        with pytest.raises(OSError, match="InvalidBucketName"):
            await once.ensure_bucket("No Bucket")
    finally:
        await once.close()
    async with S3(store.endpoint()) as s3:
        kept = (await s3.get("models", "a b/c.jsonl")).data
    gone = Once(Endpoint("http://127.0.0.1:1", "AK", "secret"))
    with pytest.raises(OSError, match="cannot be reached"):
        await gone.put_once("models", "c", b"1")

    assert (first, again, other) == (True, True, False)
    assert kept == b"1\n"


async def test_a_bundle_of_authorities_that_is_gone_is_nothing_to_a_plain_store(store, monkeypatch):
    """`nearfield env` sets the variable in a shell that may outlive the platform whose file it names."""
    monkeypatch.setenv("AWS_CA_BUNDLE", "/gone/ca.pem")
    async with S3(store.endpoint()) as s3:
        with pytest.raises(NotFound):
            await s3.get("models", "nothing")


async def test_unfinished_uploads_end_by_a_rule_where_there_is_none(store):
    """And never over rules of somebody's own."""
    once, client = Once(store.endpoint()), new_client(store.endpoint(), 2)
    own = {"ID": "own", "Filter": {"Prefix": "x"}, "Status": "Enabled", "Expiration": {"Days": 3}}
    try:
        await once.ensure_bucket("pushed")
        await once.end_uploads_after("pushed", 7)
        (rule,) = (await asyncio.to_thread(client.get_bucket_lifecycle_configuration, Bucket="pushed"))[
            "Rules"
        ]
        assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}
        rules = {"Rules": [own]}
        await asyncio.to_thread(
            client.put_bucket_lifecycle_configuration, Bucket="pushed", LifecycleConfiguration=rules
        )
        await once.end_uploads_after("pushed", 7)
        (rule,) = (await asyncio.to_thread(client.get_bucket_lifecycle_configuration, Bucket="pushed"))[
            "Rules"
        ]
        assert rule["ID"] == "own"
    finally:
        await once.close()
