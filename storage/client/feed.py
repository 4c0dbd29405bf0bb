"""The reading side of our store's change feed."""

import json
from pathlib import Path
from urllib.parse import quote, urlsplit

from storage.client.answers import Changes, StoreError, Unreachable, error_of
from storage.client.endpoint import Endpoint, sign
from storage.fault import S3Error
from storage.http.document import parse
from wire.dial import DialError, Pool
from wire.secured.tls import client_context

MARGIN_S = 15.0  # how much later than its wait a feed may answer
MAX_FEED_BYTES = 4 * 1024 * 1024  # 1,000 lines of the longest keys


class FeedReader:
    """Reads one store's feed over its own connections."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._pool = pool_of(endpoint)

    async def read(self, bucket: str, since: int, wait_s: float, limit: int) -> Changes:
        """See `client.S3.changes`. Raises: StoreError."""
        fields = {"bucket": bucket, "limit": limit, "nearfield-changes": "", "since": since, "wait": wait_s}
        query = "&".join(f"{name}={quote(str(value), safe='-._~')}" for name, value in fields.items())
        headers = sign(self._endpoint, "GET", "/", query)
        try:
            answer = await self._pool.request("GET", f"/?{query}", headers, head_s=wait_s + MARGIN_S)
            async with answer:
                body = await answer.read(MAX_FEED_BYTES)
        except DialError as error:
            raise Unreachable("Unreachable", str(error)) from error
        if answer.head.status != 200:
            raise _refusal(answer.head.status, body)
        try:
            return Changes.of(json.loads(body))
        except (ValueError, KeyError, TypeError) as error:  # another S3 sees a list of buckets asked for
            raise StoreError("NotImplemented", "This store has no change feed.", 501) from error

    async def close(self) -> None:
        """Close the connections."""
        await self._pool.close()


def pool_of(endpoint: Endpoint) -> Pool:
    """Connections to a store, not made yet."""
    url = urlsplit(endpoint.url)
    tls = client_context(Path(endpoint.ca) if endpoint.ca else None) if url.scheme == "https" else None
    return Pool(url.hostname or "", url.port or (443 if tls else 80), tls=tls, server_name=url.hostname)


def _refusal(status: int, body: bytes) -> StoreError:
    """An error document of our store as an error."""
    try:
        root = parse(body, "Error")
        return error_of(root.need("Code"), root.need("Message"), status)
    except S3Error:
        return error_of(str(status), "The store answered with something else than S3 does.", status)
