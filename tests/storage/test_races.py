import asyncio

import pytest

from storage.client.sdk import sign
from tests.evidence import count
from tests.storage.stores import Raw, StoreThread
from wire.dial import Pool

NUM_WRITERS = 64
NUM_ROUNDS = count(12, 1000)


async def put(
    pool: Pool, store: StoreThread, key: str, body: bytes, *conditions: tuple[str, str]
) -> tuple[int, str]:
    path = f"/models/{key}"
    headers = sign(store.endpoint(), "PUT", path, "", conditions)
    async with await pool.request("PUT", path, headers, body) as answer:
        await answer.read()
        return answer.head.status, answer.head.get("etag") or ""


@pytest.mark.timeout(1200)
async def test_one_of_many_creators_wins(store, raw):
    """64 writers who each want to be the first: one 200, 63 times 412, and the winner's bytes stay."""
    pool = Pool("127.0.0.1", store.port, max_idle=NUM_WRITERS)
    for number in range(NUM_ROUNDS):
        key = f"race-{number}"
        bodies = [f"{number} {writer}".encode() for writer in range(NUM_WRITERS)]
        done = await asyncio.gather(*(put(pool, store, key, body, ("if-none-match", "*")) for body in bodies))
        statuses = [status for status, _ in done]
        assert sorted(set(statuses)) == [200, 412]
        assert statuses.count(200) == 1
        assert (await asyncio.to_thread(raw.get, "models", key)).body == bodies[statuses.index(200)]
    await pool.close()


@pytest.mark.timeout(1200)
async def test_a_swap_is_won_once(store, raw):
    """Counting up by compare-and-swap loses no step."""
    pool = Pool("127.0.0.1", store.port, max_idle=NUM_WRITERS)
    _, etag = await put(pool, store, "counter", b"0")
    for number in range(1, NUM_ROUNDS):
        tries = [put(pool, store, "counter", f"{number} {w}".encode(), ("if-match", etag)) for w in range(16)]
        done = await asyncio.gather(*tries)
        winners = [etag for status, etag in done if status == 200]
        assert len(winners) == 1
        etag = winners[0]
    await pool.close()

    assert raw.get("models", "counter").headers["etag"] == etag


async def test_completions_race_too(small_store, small):
    pool = Pool("127.0.0.1", small_store.port, max_idle=8)
    uploads = []
    for writer in range(8):
        upload = small.create_upload("models", "raced")
        etag = small.put_part("models", "raced", upload, 1, f"body {writer}".encode()).headers["etag"]
        uploads.append((upload, etag))

    async def complete(upload: str, etag: str) -> int:
        part = f"<Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part>"
        document = f"<CompleteMultipartUpload>{part}</CompleteMultipartUpload>"
        headers = sign(
            small_store.endpoint(), "POST", "/models/raced", f"uploadId={upload}", (("if-none-match", "*"),)
        )
        async with await pool.request(
            "POST", f"/models/raced?uploadId={upload}", headers, document.encode()
        ) as answer:
            await answer.read()
            return answer.head.status

    statuses = await asyncio.gather(*(complete(*each) for each in uploads))
    await pool.close()

    assert statuses.count(200) == 1
    assert small.get("models", "raced").body == f"body {statuses.index(200)}".encode()


def test_a_folder_has_one_store(tmp_path):
    first = StoreThread(tmp_path)
    with pytest.raises(BlockingIOError):
        StoreThread(tmp_path)
    with Raw(first.endpoint()) as raw:
        assert raw.send("GET", "/").status == 200
    first.stop()
