"""Objects that are written once and never over, and buckets: signed PUTs without any SDK, for who loads none."""

import base64
import hashlib

from storage.auth.canonical import Headers
from storage.client.endpoint import Endpoint, sign, url_path
from storage.client.feed import pool_of
from wire.dial import DialError

ANSWER_S = 15.0  # for a few megabytes on one store's own disk
MAX_ANSWER_BYTES = 16 * 1024 * 1024
CREATED, ABSENT, TAKEN = 200, 404, 412
THERE = (b"BucketAlreadyOwnedByYou", b"BucketAlreadyExists")
UNFINISHED = (
    "<LifecycleConfiguration><Rule><ID>unfinished-uploads</ID><Filter><Prefix></Prefix></Filter>"
    "<Status>Enabled</Status><AbortIncompleteMultipartUpload><DaysAfterInitiation>{days}</DaysAfterInitiation>"
    "</AbortIncompleteMultipartUpload></Rule></LifecycleConfiguration>"
)


class Once:
    """Writes to one store over its own connections."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._pool = pool_of(endpoint)

    async def put_once(self, bucket: str, key: str, data: bytes) -> bool:
        """Put an object where there is none. Whether these very bytes are there now.

        Raises: OSError if the store is away or refuses.
        """
        status, said = await self._ask("PUT", bucket, key, data, (("if-none-match", "*"),))
        if status == CREATED:
            return True
        if status != TAKEN:
            raise OSError(f"the store answered {status} to PUT {bucket}/{key}: {said[:300]!r}")
        status, there = await self._ask("GET", bucket, key)
        if status != CREATED:
            raise OSError(f"the store answered {status} to GET {bucket}/{key}: {there[:300]!r}")
        return there == data

    async def ensure_bucket(self, bucket: str) -> None:
        """Make a bucket unless it is there. Raises: OSError if the store is away or refuses."""
        status, said = await self._ask("PUT", bucket)
        if status != CREATED and not any(code in said for code in THERE):
            raise OSError(f"the store answered {status} to PUT {bucket}: {said[:300]!r}")

    async def end_uploads_after(self, bucket: str, days: int) -> None:
        """Have a bucket that has no lifecycle rules end multipart uploads that nobody finished in so many days.

        A store that knows no such rules keeps them. Raises: OSError if the store is away.
        """
        status, _ = await self._ask("GET", bucket, query="lifecycle=")
        if status == ABSENT:
            rule = UNFINISHED.format(days=days).encode()
            digest = base64.b64encode(hashlib.md5(rule, usedforsecurity=False).digest()).decode()
            await self._ask("PUT", bucket, data=rule, more=(("content-md5", digest),), query="lifecycle=")

    async def close(self) -> None:
        """Close the connections."""
        await self._pool.close()

    async def _ask(
        self,
        method: str,
        bucket: str,
        key: str = "",
        data: bytes = b"",
        more: Headers = (),
        query: str = "",
    ) -> tuple[int, bytes]:
        path, payload = url_path(bucket, key), hashlib.sha256(data).hexdigest()
        headers = sign(self._endpoint, method, path, query, more, payload)
        target = f"{path}?{query}" if query else path
        try:
            answer = await self._pool.request(method, target, headers, data, head_s=ANSWER_S)
            async with answer:
                return answer.head.status, await answer.read(MAX_ANSWER_BYTES)
        except DialError as error:
            raise OSError(f"the store cannot be reached: {error}") from error
