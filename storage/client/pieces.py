"""An upload's bytes cut into parts, and the parts sent, a few at once."""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from storage.client.answers import StoreError
from storage.client.arguments import unquoted

MIB = 1024 * 1024
READ_BYTES = 4 * MIB  # of a file at once
PART_BYTES = 16 * MIB  # a part of a multipart upload: 10,000 of them are 156 GiB
MAX_PARTS = 10_000  # S3's
NUM_PARTS_AT_ONCE = 4  # of one object; times the part's size this is the memory of an upload


async def put_parts(
    client: Any,
    place: Mapping[str, str],
    parts: AsyncIterable[bytes],
    conditions: Mapping[str, str],
    told: Callable[[int], None],
) -> str:
    """A multipart upload to `place` (Bucket and Key); returns the ETag. Aborted if anything goes wrong."""
    begun = await client.create_multipart_upload(**place)
    where = {**place, "UploadId": begun["UploadId"]}
    completed = False
    try:
        done = await _send_parts(client, where, parts, told)
        answer = await client.complete_multipart_upload(
            MultipartUpload={"Parts": done}, **where, **conditions
        )
        completed = True
    finally:
        if not completed:
            # The failure that led here is the one to hear of; what stays behind is listed as unfinished.
            await asyncio.gather(client.abort_multipart_upload(**where), return_exceptions=True)
    return unquoted(str(answer["ETag"]))


async def join_parts(client: Any, bucket: str, key: str, sources: Sequence[str]) -> str:
    """A multipart upload whose parts are copies of objects; returns the ETag. Aborted if anything goes wrong."""
    place = {"Bucket": bucket, "Key": key}
    where = {**place, "UploadId": (await client.create_multipart_upload(**place))["UploadId"]}
    done = []
    completed = False
    try:
        for number, source in enumerate(sources, 1):
            copied = {"Bucket": bucket, "Key": source}
            answer = await client.upload_part_copy(PartNumber=number, CopySource=copied, **where)
            done.append({"PartNumber": number, "ETag": answer["CopyPartResult"]["ETag"]})
        answer = await client.complete_multipart_upload(MultipartUpload={"Parts": done}, **where)
        completed = True
    finally:
        if not completed:
            await asyncio.gather(client.abort_multipart_upload(**where), return_exceptions=True)  # as above
    return unquoted(str(answer["ETag"]))


async def _send_parts(
    client: Any, where: Mapping[str, str], parts: AsyncIterable[bytes], told: Callable[[int], None]
) -> list[dict[str, Any]]:
    """Send parts as they come, a few at once; returns what completing asks for."""

    async def send(number: int, data: bytes) -> dict[str, Any]:
        digest = await content_md5(data)
        answer = await client.upload_part(PartNumber=number, Body=data, ContentMD5=digest, **where)
        told(len(data))
        return {"PartNumber": number, "ETag": answer["ETag"]}

    running: set[asyncio.Task[dict[str, Any]]] = set()
    done: list[dict[str, Any]] = []
    number = 0
    try:
        async for data in parts:
            number += 1
            running.add(asyncio.create_task(send(number, data)))
            while len(running) >= NUM_PARTS_AT_ONCE:
                ended, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                done += [task.result() for task in ended]
        done += await asyncio.gather(*running)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    return sorted(done, key=lambda part: int(part["PartNumber"]))


async def regrouped(chunks: AsyncIterable[bytes], part_bytes: int, size: int) -> AsyncIterator[bytes]:
    """The same bytes in pieces of `part_bytes`. Raises: StoreError IncompleteBody unless they are `size`."""
    held = bytearray()
    total = 0
    async for chunk in chunks:
        held += chunk
        total += len(chunk)
        while len(held) > part_bytes:
            yield bytes(held[:part_bytes])
            del held[:part_bytes]
    if total != size:
        raise StoreError("IncompleteBody", f"{total} bytes came where {size} were announced.")
    yield bytes(held)


async def file_chunks(path: Path) -> AsyncIterator[bytes]:
    """A file's bytes. Raises: OSError."""
    with await asyncio.to_thread(path.open, "rb") as file:
        while chunk := await asyncio.to_thread(file.read, READ_BYTES):
            yield chunk


async def content_md5(data: bytes) -> str:
    """The integrity of a body that every S3 checks: MD5, off the loop when it takes a while."""
    if len(data) < MIB:
        return _md5(data)
    return await asyncio.to_thread(_md5, data)


def _md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


class Progress:
    """s3transfer's subscriber that tells how many bytes of a file were just sent."""

    def __init__(self, path: str, told: Callable[[str, int], None]) -> None:
        self._path = path
        self._told = told

    def on_queued(self, **_: Any) -> None:
        """Nothing to tell."""

    def on_progress(self, bytes_transferred: int, **_: Any) -> None:
        """Called by s3transfer; negative when a part is sent again."""
        self._told(self._path, bytes_transferred)

    def on_done(self, **_: Any) -> None:
        """Nothing to tell."""
