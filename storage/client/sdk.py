"""The one file that speaks to any S3 through the SDKs, and the signature for everyone who does not.

Importing it costs nothing: the SDKs load when the first `S3` opens. ETags are without quotes everywhere.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from functools import cached_property
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
    error_of,
)
from storage.client.arguments import byte_range, given, quoted, size_of, star, unquoted
from storage.client.endpoint import Endpoint, presign, sign, url_path
from storage.client.feed import FeedReader
from storage.client.pieces import (
    NUM_PARTS_AT_ONCE,
    Progress,
    content_md5,
    file_chunks,
    join_parts,
    put_parts,
    regrouped,
)
from storage.client.stall import Stall

__all__ = [
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

MIB = 1024 * 1024
PART_BYTES = 16 * MIB  # a part of a multipart upload: 10,000 of them are 156 GiB
MAX_PARTS = 10_000
MAX_GET_BYTES = 64 * MIB  # `get` is for documents; `stream` is for weights
NUM_FILES_AT_ONCE = 4
ATTEMPTS = 3  # of one call: who asks has a plan of its own for a store that is away
UPLOAD_ATTEMPTS = 8  # the SDK's pauses add up to about half a minute: a store that is restarted costs no push


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
        with _translated(), _cut_short():
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
        with _translated(), _cut_short():
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
        with _translated():
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
            with _translated():
                return await put_parts(client, place, parts, conditions, told)
        data = b"".join([part async for part in parts])
        etag = await self.put(bucket, key, data, if_none_match=if_none_match)
        told(size)
        return etag

    async def head(self, bucket: str, key: str) -> Entry:
        """What a listing would show of an object."""
        client = await self._client()
        with _translated():
            answer = await client.head_object(Bucket=bucket, Key=key)
        modified_s = answer["LastModified"].timestamp()
        return Entry(key, int(answer["ContentLength"]), unquoted(answer["ETag"]), modified_s)

    async def delete(self, bucket: str, key: str, *, if_match: str | None = None) -> None:
        """Delete an object; a missing one is no error unless `if_match` is given."""
        client = await self._client()
        with _translated():
            await client.delete_object(Bucket=bucket, Key=key, **given(IfMatch=quoted(if_match)))

    async def list(
        self, bucket: str, prefix: str = "", *, start_after: str = ""
    ) -> AsyncGenerator[Entry, None]:
        """All objects under a prefix, in order of key."""
        client = await self._client()
        pages = client.get_paginator("list_objects_v2")
        with _translated():
            async for page in pages.paginate(Bucket=bucket, Prefix=prefix, **given(StartAfter=start_after)):
                for row in page.get("Contents", ()):
                    modified_s = row["LastModified"].timestamp()
                    yield Entry(row["Key"], int(row["Size"]), unquoted(row["ETag"]), modified_s)

    async def uploads(self, bucket: str, prefix: str = "") -> tuple[Unfinished, ...]:
        """The multipart uploads under a prefix that are not finished."""
        client = await self._client()
        found: list[Unfinished] = []
        pages = client.get_paginator("list_multipart_uploads")
        with _translated():
            async for page in pages.paginate(Bucket=bucket, Prefix=prefix):
                rows = page.get("Uploads", ())
                found += [
                    Unfinished(row["Key"], row["UploadId"], row["Initiated"].timestamp()) for row in rows
                ]
        return tuple(found)

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
        with _translated():
            answer = await client.copy_object(CopySource=source, Bucket=to_bucket, Key=to_key, **asked)
        return unquoted(answer["CopyObjectResult"]["ETag"])

    async def join(self, bucket: str, key: str, sources: Sequence[str]) -> str:
        """One object of others of its bucket, in order; returns the ETag. On our own store no byte moves.

        Each source but the last has at least 5 MiB, S3's smallest part.
        """
        client = await self._client()
        with _translated():
            return await join_parts(client, bucket, key, sources)

    async def ensure_bucket(self, bucket: str) -> None:
        """Make the bucket unless it is there."""
        client = await self._client()
        try:
            with _translated():
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
                    await asyncio.to_thread(_load_async_sdk)
                    made = _new_async_client(self.endpoint, self._max_connections)
                    self._open = await self._stack.enter_async_context(made)
        return self._open


def upload_folder(
    endpoint: Endpoint,
    bucket: str,
    prefix: str,
    files: Sequence[tuple[str, Path]],
    on_progress: Callable[[str, int], None] | None = None,
    stall: Stall | None = None,
) -> tuple[Uploaded, ...]:
    """Upload (path under `prefix`, local file) pairs with boto3's transfers, CRC32 checked by the store.

    `on_progress(path, bytes just sent)` is called from several threads. Raises: StoreError, OSError; Unreachable too
    where nothing has moved for as long as `stall` allows.
    """
    from boto3.s3.transfer import TransferConfig, create_transfer_manager  # noqa: PLC0415 - said on top

    stall = stall or Stall()
    client = _new_client(endpoint, NUM_FILES_AT_ONCE * NUM_PARTS_AT_ONCE, UPLOAD_ATTEMPTS)
    stall.watch(client)

    def told(path: str, num_bytes: int) -> None:
        stall.sent(num_bytes)
        if on_progress is not None:
            on_progress(path, num_bytes)

    config = TransferConfig(
        multipart_threshold=PART_BYTES,
        multipart_chunksize=PART_BYTES,
        max_concurrency=NUM_PARTS_AT_ONCE,
        preferred_transfer_client="classic",
    )
    try:
        with _translated(), create_transfer_manager(client, config) as transfers:
            running = [
                transfers.upload(
                    str(file),
                    bucket,
                    prefix + path,
                    {"ChecksumAlgorithm": "CRC32"},
                    [Progress(path, told)],
                )
                for path, file in files
            ]
            for upload in running:
                upload.result()
            return tuple(_uploaded(client, bucket, prefix, path) for path, _ in files)
    finally:
        client.close()


def _uploaded(client: Any, bucket: str, prefix: str, path: str) -> Uploaded:
    answer = client.head_object(Bucket=bucket, Key=prefix + path)
    return Uploaded(path, int(answer["ContentLength"]), unquoted(answer["ETag"]))


class _Sessions(threading.local):
    """The SDK's sessions of a thread, which reads S3's description once for all its clients: 60 ms of a client's 70.

    No session is safe in several threads.
    """

    @cached_property
    def asynchronous(self) -> Any:
        """For clients that live in this thread's event loops."""
        from aiobotocore.session import get_session  # noqa: PLC0415 - said on top

        return get_session()

    @cached_property
    def plain(self) -> Any:
        """For clients that block."""
        from botocore.session import get_session  # noqa: PLC0415 - said on top

        return get_session()


_sessions = _Sessions()


def read_ahead() -> None:
    """Load the SDK and read its description of S3, for clients of this thread and of what is forked from it."""
    _load_async_sdk()
    _sessions.asynchronous.warm_up_loader_caches("s3")


def _load_async_sdk() -> None:
    """Half a second of imports, which no event loop waits for."""
    import aiobotocore.config  # noqa: PLC0415 - said on top
    import aiobotocore.session  # noqa: F401, PLC0415 - as above


def _new_async_client(endpoint: Endpoint, max_connections: int) -> Any:
    from aiobotocore.config import AioConfig  # noqa: PLC0415 - said on top

    config = AioConfig(**_settings(max_connections), warm_up_loader_caches=True)  # in a thread
    return _sessions.asynchronous.create_client("s3", config=config, **_address(endpoint))


def _new_client(endpoint: Endpoint, max_connections: int, attempts: int = ATTEMPTS) -> Any:
    from botocore.config import Config  # noqa: PLC0415 - said on top

    config = Config(**_settings(max_connections, attempts))
    return _sessions.plain.create_client("s3", config=config, **_address(endpoint))


def _settings(max_connections: int, attempts: int = ATTEMPTS) -> dict[str, Any]:
    """Path style, checksums only where S3 demands them (weaker stores refuse the rest), no SHA-256 of bodies."""
    return {
        "max_pool_connections": max_connections,
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
        "retries": {"mode": "standard", "total_max_attempts": attempts},
        "s3": {"addressing_style": "path", "payload_signing_enabled": False},
        "signature_version": "s3v4",
    }


def _address(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "endpoint_url": endpoint.url,
        "region_name": endpoint.region,
        "aws_access_key_id": endpoint.access_key,
        "aws_secret_access_key": endpoint.secret,
        "verify": _trust(endpoint),
    }


def _trust(endpoint: Endpoint) -> str | bool | None:
    """Its authority's file; None: whom the SDK trusts. Plain HTTP asks for none.

    Without this last, an AWS_CA_BUNDLE that names a file which is gone ends every request, of whatever scheme.
    """
    return endpoint.ca or (None if endpoint.url.startswith("https://") else False)


@contextmanager
def _translated() -> Iterator[None]:
    """The SDK's errors as ours, once, at this seam."""
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - loaded by then

    try:
        yield
    except ClientError as error:
        fields = error.response.get("Error", {})
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        raise error_of(str(fields.get("Code", status)), str(fields.get("Message", "")), status) from error
    except BotoCoreError as error:
        raise Unreachable("Unreachable", str(error)) from error


@contextmanager
def _cut_short() -> Iterator[None]:
    """A body that breaks off is told by the HTTP client under the SDK."""
    from aiohttp import ClientError  # noqa: PLC0415 - loaded by then

    try:
        yield
    except ClientError as error:
        raise Unreachable("Unreachable", str(error)) from error
