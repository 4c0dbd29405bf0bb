"""Any S3 for our rooms: `S3` over the SDKs, and the signature for everyone who does without them.

Importing it costs nothing: the SDKs load when the first `S3` opens (`aws.py`). ETags are without quotes everywhere.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from storage.client.answers import (
    Change,
    Changes,
    Entry,
    Got,
    NotFound,
    PreconditionFailed,
    StoreError,
    Unfinished,
    Unreachable,
    Uploaded,
)
from storage.client.arguments import byte_range, given, quoted, size_of, star, unquoted
from storage.client.aws import cut_short, load_async_sdk, new_async_client, translated
from storage.client.endpoint import Endpoint, presign, sign, url_path
from storage.client.feed import FeedReader
from storage.client.folder import upload_folder
from storage.client.pieces import (
    MAX_PARTS,
    MIB,
    PART_BYTES,
    content_md5,
    file_chunks,
    join_parts,
    put_parts,
    regrouped,
)
from storage.client.stall import Stall

__all__ = [
    "PART_BYTES",
    "S3",
    "Change",
    "Changes",
    "Endpoint",
    "Entry",
    "Got",
    "NotFound",
    "PreconditionFailed",
    "Stall",
    "StoreError",
    "Unfinished",
    "Unreachable",
    "Uploaded",
    "presign",
    "sign",
    "upload_folder",
    "url_path",
]

MAX_GET_BYTES = 64 * MIB  # `get` is for documents; `stream` is for weights


class S3:
    """One S3 endpoint over aiobotocore: `async with S3(endpoint) as s3`, or `close()` at the end.

    Every method raises StoreError, or NotFound, PreconditionFailed and Unreachable, which are StoreErrors.
    """

    def __init__(self, endpoint: Endpoint, *, max_connections: int = 32) -> None:
        self.endpoint = endpoint
        self._max_connections = max_connections
        self._stack = AsyncExitStack()
        self._opening = asyncio.Lock()
        self._open: Any = None
        self._feed: FeedReader | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        self._open = None
        await self._stack.aclose()
        if self._feed is not None:
            await self._feed.close()

    async def get(
        self,
        bucket: str,
        key: str,
        *,
        if_match: str | None = None,
        start: int | None = None,
        length: int | None = None,
        max_bytes: int = MAX_GET_BYTES,
    ) -> Got:
        """An object, or `length` bytes from `start`. Raises: StoreError TooLarge above `max_bytes`."""
        client = await self._client()
        asked = given(IfMatch=quoted(if_match), Range=byte_range(start, length))
        with translated(), cut_short():
            answer = await client.get_object(Bucket=bucket, Key=key, **asked)
            async with answer["Body"] as body:
                if answer["ContentLength"] > max_bytes:
                    raise StoreError("TooLarge", f"{bucket}/{key} has over {max_bytes} bytes; stream it.")
                data = await body.read()
        return Got(data, unquoted(answer["ETag"]), size_of(answer), answer.get("Metadata", {}))

    async def stream(
        self,
        bucket: str,
        key: str,
        *,
        if_match: str | None = None,
        start: int = 0,
        length: int | None = None,
        chunk_bytes: int = MIB,
    ) -> AsyncGenerator[bytes, None]:
        """The bytes as they come; a cut raises Unreachable, go on from there with `start` and `if_match`."""
        client = await self._client()
        span = byte_range(start, length) if start or length is not None else None
        with translated(), cut_short():
            asked = given(IfMatch=quoted(if_match), Range=span)
            answer = await client.get_object(Bucket=bucket, Key=key, **asked)
            async with answer["Body"] as body:
                async for chunk in body.iter_chunks(chunk_bytes):
                    yield chunk

    async def put(
        self,
        bucket: str,
        key: str,
        data: bytes,
        *,
        if_none_match: bool | Literal["*"] = False,
        if_match: str | None = None,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        crc32: str | None = None,
    ) -> str:
        """Put a whole object; returns its ETag. `if_none_match`: only if there is none yet; `crc32`: in base64."""
        client = await self._client()
        asked = given(
            IfNoneMatch=star(if_none_match),
            IfMatch=quoted(if_match),
            ContentType=content_type,
            ContentMD5=await content_md5(data),
            ChecksumCRC32=crc32,
        )
        with translated():
            answer = await client.put_object(
                Bucket=bucket, Key=key, Body=data, Metadata=dict(metadata or {}), **asked
            )
        return unquoted(answer["ETag"])

    async def put_file(
        self,
        bucket: str,
        key: str,
        path: Path,
        *,
        part_bytes: int = PART_BYTES,
        if_none_match: bool | Literal["*"] = False,
        on_progress: Callable[[int], None] | None = None,
    ) -> str:
        """Put a file, in parts above `part_bytes`; returns the ETag. `on_progress` gets bytes just sent."""
        size = (await asyncio.to_thread(path.stat)).st_size
        return await self.put_stream(
            bucket,
            key,
            file_chunks(path),
            size,
            part_bytes=part_bytes,
            if_none_match=if_none_match,
            on_progress=on_progress,
        )

    async def put_stream(
        self,
        bucket: str,
        key: str,
        chunks: AsyncIterable[bytes],
        size: int,
        *,
        part_bytes: int = PART_BYTES,
        if_none_match: bool | Literal["*"] = False,
        on_progress: Callable[[int], None] | None = None,
    ) -> str:
        """Put `size` bytes as they come; returns the ETag. If `chunks` raises, nothing becomes visible.

        Raises: StoreError IncompleteBody if `chunks` is not `size` bytes.
        """
        told = on_progress or (lambda _: None)
        part_bytes = max(part_bytes, -(-size // MAX_PARTS))
        parts = regrouped(chunks, part_bytes, size)
        if size > part_bytes:
            client = await self._client()
            place, conditions = {"Bucket": bucket, "Key": key}, given(IfNoneMatch=star(if_none_match))
            with translated():
                return await put_parts(client, place, parts, conditions, told)
        data = b"".join([part async for part in parts])
        etag = await self.put(bucket, key, data, if_none_match=if_none_match)
        told(size)
        return etag

    async def head(self, bucket: str, key: str) -> Entry:
        """What a listing would show of an object."""
        client = await self._client()
        with translated():
            answer = await client.head_object(Bucket=bucket, Key=key)
        modified_s = answer["LastModified"].timestamp()
        return Entry(key, int(answer["ContentLength"]), unquoted(answer["ETag"]), modified_s)

    async def delete(self, bucket: str, key: str, *, if_match: str | None = None) -> None:
        """Delete an object; a missing one is no error unless `if_match` is given."""
        client = await self._client()
        with translated():
            await client.delete_object(Bucket=bucket, Key=key, **given(IfMatch=quoted(if_match)))

    async def list(
        self, bucket: str, prefix: str = "", *, start_after: str = ""
    ) -> AsyncGenerator[Entry, None]:
        """All objects under a prefix, in order of key."""
        client = await self._client()
        pages = client.get_paginator("list_objects_v2")
        with translated():
            async for page in pages.paginate(Bucket=bucket, Prefix=prefix, **given(StartAfter=start_after)):
                for row in page.get("Contents", ()):
                    modified_s = row["LastModified"].timestamp()
                    yield Entry(row["Key"], int(row["Size"]), unquoted(row["ETag"]), modified_s)

    async def uploads(self, bucket: str, prefix: str = "") -> tuple[Unfinished, ...]:
        """The multipart uploads under a prefix that are not finished."""
        client = await self._client()
        found: list[Unfinished] = []
        pages = client.get_paginator("list_multipart_uploads")
        with translated():
            async for page in pages.paginate(Bucket=bucket, Prefix=prefix):
                rows = page.get("Uploads", ())
                found += [
                    Unfinished(row["Key"], row["UploadId"], row["Initiated"].timestamp()) for row in rows
                ]
        return tuple(found)

    async def abort(self, bucket: str, upload: Unfinished) -> None:
        """End a multipart upload and free its parts; one that is gone is no error."""
        client = await self._client()
        with suppress(NotFound), translated():
            await client.abort_multipart_upload(Bucket=bucket, Key=upload.key, UploadId=upload.upload_id)

    async def copy(
        self,
        bucket: str,
        key: str,
        to_bucket: str,
        to_key: str,
        *,
        source_if_match: str | None = None,
        if_none_match: bool | Literal["*"] = False,
    ) -> str:
        """Copy inside the store; returns the new ETag. On our own store no byte moves."""
        client = await self._client()
        asked = given(CopySourceIfMatch=quoted(source_if_match), IfNoneMatch=star(if_none_match))
        source = {"Bucket": bucket, "Key": key}
        with translated():
            answer = await client.copy_object(CopySource=source, Bucket=to_bucket, Key=to_key, **asked)
        return unquoted(answer["CopyObjectResult"]["ETag"])

    async def join(self, bucket: str, key: str, sources: Sequence[str]) -> str:
        """One object of others of its bucket, in order; returns the ETag. On our own store no byte moves.

        Each source but the last has at least 5 MiB, S3's smallest part.
        """
        client = await self._client()
        with translated():
            return await join_parts(client, bucket, key, sources)

    async def ensure_bucket(self, bucket: str) -> None:
        """Make the bucket unless it is there."""
        client = await self._client()
        try:
            with translated():
                await client.create_bucket(Bucket=bucket)
        except StoreError as error:
            if error.code not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
                raise

    async def changes(self, bucket: str, since: int, *, wait_s: float = 20.0, limit: int = 1000) -> Changes:
        """Our store's change feed after `since`; waits up to `wait_s` for a line. `since` -1: only the head.

        Raises: StoreError EventsExpired if lines are gone (list the bucket), NotImplemented on another S3.
        """
        if self._feed is None:
            self._feed = FeedReader(self.endpoint)
        return await self._feed.read(bucket, since, wait_s, limit)

    async def _client(self) -> Any:
        """The SDK's client, made at the first use."""
        if self._open is None:
            async with self._opening:
                if self._open is None:
                    await asyncio.to_thread(load_async_sdk)
                    made = new_async_client(self.endpoint, self._max_connections)
                    self._open = await self._stack.enter_async_context(made)
        return self._open
