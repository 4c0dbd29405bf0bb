"""What one store asks of the home of a bucket, signed with its own key: a look at an object, and ranges of it."""

import re
from collections.abc import AsyncIterator
from typing import Final

from storage.checksum import WHOLE_SUM
from storage.client.endpoint import Endpoint, sign, url_path
from storage.client.feed import pool_of
from storage.homes.facts import Away, Changed, Facts
from wire.dial import Answer, DialError
from wire.http.http1 import Headers

CONNECT_S: Final = 3.0
LOOK_S: Final = 5.0  # a look at the index and a round trip around the Earth; then the home counts as away
HEAD_S: Final = 15.0  # opening a large object sums what of it was never read before
BETWEEN_S: Final = 15.0  # the same inside a body
GONE: Final = frozenset({404, 405, 412, 416})  # answers to a range of a version that is not there any more
_RANGE: Final = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")


class Origin:
    """The home of some buckets."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.pool = pool_of(endpoint)

    async def close(self) -> None:
        """Close the connections."""
        await self.pool.close()

    async def look(self, bucket: str, key: str) -> Facts | None:
        """What the home has under a key now; None if there is something else to say than that. Raises: Away."""
        asked = (("x-amz-checksum-mode", "ENABLED"), (WHOLE_SUM, "1"))
        answer = await self._ask("HEAD", bucket, key, asked, LOOK_S)
        async with answer:
            if answer.head.status >= 500:
                raise Away(f"status {answer.head.status}")
            if answer.head.status != 200:
                return None
            return Facts.of_answer(bucket, key, answer.head.headers)

    async def read(self, facts: Facts, start: int, end: int) -> AsyncIterator[bytes]:
        """Bytes start..end of exactly this version, as they come. Raises: Changed, Away; after what came until then."""
        asked = (("range", f"bytes={start}-{end - 1}"), ("if-match", f'"{facts.etag}"'))
        answer = await self._ask("GET", facts.bucket, facts.key, asked, HEAD_S)
        async with answer:
            _check(answer, facts, start, end)
            try:
                async for data in answer.chunks(BETWEEN_S):
                    yield data
            except DialError as error:
                raise Away(str(error)) from error

    async def _ask(self, method: str, bucket: str, key: str, asked: Headers, head_s: float) -> Answer:
        path = url_path(bucket, key)
        headers = sign(self.endpoint, method, path, "", asked)
        try:
            return await self.pool.request(method, path, headers, connect_s=CONNECT_S, head_s=head_s)
        except DialError as error:
            raise Away(str(error)) from error


def _check(answer: Answer, facts: Facts, start: int, end: int) -> None:
    """That the answer is the range asked for, of the version asked for. Raises: Changed, Away."""
    head = answer.head
    if head.status in GONE:
        raise Changed(f"{facts.bucket}/{facts.key}")
    found = _RANGE.fullmatch(head.get("content-range") or "")
    if head.status != 206 or found is None:
        raise Away(f"status {head.status}")
    if tuple(map(int, found.groups())) != (start, end - 1, facts.size):
        raise Away("another range than asked for")
    if (head.get("etag") or "").strip('"') != facts.etag:
        raise Changed(f"{facts.bucket}/{facts.key}")
