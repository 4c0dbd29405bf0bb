"""How far a region is behind its home: revisions it should have and has not, and a home it does not hear.

Pure but for the feed's wrapper: times are arguments, in seconds of one monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from storage.client.sdk import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from regions.objects.changes import Batch, Feed


@dataclass(frozen=True, slots=True)
class Behind:
    """What is still to come, and since when it is due; nothing and 0 s for a region that is up to date."""

    num_bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Due:
    revision: str
    since_s: float
    left_bytes: int


class Lag:
    """One region's."""

    def __init__(self) -> None:
        self._due: dict[str, _Due] = {}  # by model
        self._silent_since_s: float | None = None

    def due(self, model: str, revision: str, size: int, now_s: float) -> None:
        """The region should have that revision, of `size` bytes as far as is known. Again is no change."""
        known = self._due.get(model)
        if known is None or known.revision != revision:
            self._due[model] = _Due(revision, now_s, size)
        elif known.left_bytes == 0:
            self._due[model] = replace(known, left_bytes=size)

    def left(self, model: str, revision: str, num_bytes: int) -> None:
        """Of a revision that is due, so much has not come yet."""
        known = self._due.get(model)
        if known is not None and known.revision == revision:
            self._due[model] = replace(known, left_bytes=num_bytes)

    def done(self, model: str) -> None:
        """The region has what it should have of a model, or should have none of it."""
        self._due.pop(model, None)

    def silent(self, now_s: float) -> None:
        """The home did not answer."""
        if self._silent_since_s is None:
            self._silent_since_s = now_s

    def heard(self) -> None:
        """The home answered."""
        self._silent_since_s = None

    def behind(self, now_s: float) -> Behind:
        """The lag at a moment."""
        since = [each.since_s for each in self._due.values()]
        since += [] if self._silent_since_s is None else [self._silent_since_s]
        num_bytes = sum(each.left_bytes for each in self._due.values())
        return Behind(num_bytes, max((now_s - each for each in since), default=0.0))


class Listened:
    """A feed that tells the lag whether its store answers; implements objects.changes.Feed."""

    def __init__(self, feed: Feed, lag: Lag, clock: Callable[[], float]) -> None:
        self._feed = feed
        self._lag = lag
        self._clock = clock

    async def changes(self, prefix: str, since: int) -> Batch:
        """See Feed."""
        try:
            batch = await self._feed.changes(prefix, since)
        except StoreError:
            self._lag.silent(self._clock())
            raise
        self._lag.heard()
        return batch
