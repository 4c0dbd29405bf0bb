"""What a region needs of an object store: `storage.client.sdk.S3` has it, and so has the tests' dictionary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Sequence

    from storage.client.sdk import Changes, Entry, Got, Unfinished


class Store(Protocol):
    """Objects by bucket and key. Etags are without quotes.

    Raises storage.client.answers' StoreError: NotFound, PreconditionFailed, Unreachable, or itself.
    """

    async def get(
        self,
        bucket: str,
        key: str,
        *,
        if_match: str | None = None,
        start: int | None = None,
        length: int | None = None,
        max_bytes: int = ...,
    ) -> Got:
        """One object, or a range of it, in memory."""

    def stream(
        self, bucket: str, key: str, *, if_match: str | None = None, start: int = 0, length: int | None = None
    ) -> AsyncIterator[bytes]:
        """The bytes from `start` on, as they come."""

    async def put(
        self,
        bucket: str,
        key: str,
        data: bytes,
        *,
        if_none_match: bool = False,
        if_match: str | None = None,
        crc32: str | None = None,
    ) -> str:
        """Writes one object; its etag. Conditional: only if there is none, or only over that one.

        With its CRC32, in base64: only if that is so.
        """

    async def put_stream(self, bucket: str, key: str, chunks: AsyncIterable[bytes], size: int) -> str:
        """Writes `size` bytes as they come; nothing is visible if `chunks` raises."""

    async def head(self, bucket: str, key: str) -> Entry:
        """Size, etag and time of one object."""

    async def delete(self, bucket: str, key: str, *, if_match: str | None = None) -> None:
        """Deletes one object; one that is not there is no error."""

    def list(self, bucket: str, prefix: str = "", *, start_after: str = "") -> AsyncIterator[Entry]:
        """Every object below a prefix, by key."""

    async def copy(
        self, bucket: str, key: str, to_bucket: str, to_key: str, *, source_if_match: str | None = None
    ) -> str:
        """Copies inside the store; no byte comes here."""

    async def join(self, bucket: str, key: str, sources: Sequence[str]) -> str:
        """Makes one object of others of its bucket, in order, inside the store; its etag."""

    async def ensure_bucket(self, bucket: str) -> None:
        """Makes a bucket unless it is there."""

    async def uploads(self, bucket: str, prefix: str = "") -> tuple[Unfinished, ...]:
        """Multipart uploads that have begun and not ended."""

    async def changes(self, bucket: str, since: int, *, wait_s: float = 20.0, limit: int = 1000) -> Changes:
        """The store's own feed, from behind `since`; waits for the first one at most `wait_s`."""
