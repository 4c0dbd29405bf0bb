"""The copies that one store keeps of other regions' objects: a bounded folder, the least recently read go first.

A copy is of one version. Which version may be read is asked of the home at every read; only while the home is away
is the one that was read last given, and then what was heard of it counts: a key that was deleted or overwritten, as
far as the change feed (or a write that passed here) told, has no copy any more, also none that was being made when
the word came. That is what a tombstone does here; the home's outbox keeps them for who was away.
"""

import asyncio
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path

from storage.homes.copy import Copy, Home, NoRoom
from storage.homes.facts import Facts
from storage.homes.partial import Partial

log = logging.getLogger("nearfield.storage")

MAX_COPIES = 10_000  # each is three files, and is looked at when the store starts: about a second for all
MAX_HEARD = (
    100_000  # words about keys that are remembered, ~20 MB; each matters only for as long as one read's look
)

Name = tuple[str, str]  # bucket and key


class Copies:
    """Every copy of one store; one event loop."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self._folder = folder
        self._tick = 0
        self._heard: OrderedDict[Name, tuple[int, str | None]] = OrderedDict()
        self._versions: dict[Name, dict[str, Copy]] = {}
        self._by_use: OrderedDict[Copy, None] = OrderedDict()
        self._closing: set[asyncio.Task[None]] = set()

    def load(self, home_of: Callable[[str], Home | None]) -> None:
        """Take in what an earlier process left, oldest use first; what is nobody's is deleted. Raises: OSError."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        described = sorted(self._folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        known = {path.stem for path in described if self._load_one(path, home_of)}
        for path in self._folder.iterdir():
            if path.suffix in {".data", ".sums", ".json", ".new"} and path.stem not in known:
                path.unlink()

    def _load_one(self, path: Path, home_of: Callable[[str], Home | None]) -> bool:
        facts = Facts.from_json(path.read_bytes())
        home = None if facts is None else home_of(facts.bucket)
        if facts is None or home is None:
            return False
        partial = Partial(self._folder, path.stem, facts)
        held_bytes = partial.kept_bytes()
        self.held_bytes += held_bytes
        self._remember(Copy(partial, home, self, held_bytes))
        return True

    @property
    def tick(self) -> int:
        """The number of the last word heard. Take it before looking at the home, and give it to `use`."""
        return self._tick

    def heard(self, bucket: str, key: str, etag: str | None) -> None:
        """A key has that version now, None for none: older copies are not to be read any more."""
        name = (bucket, key)
        self._tick += 1
        self._heard[name] = (self._tick, etag)
        self._heard.move_to_end(name)
        if len(self._heard) > MAX_HEARD:
            self._heard.popitem(last=False)
        for copy in list(self._versions.get(name, {}).values()):
            if copy.facts.etag != etag:
                self._doom(copy)

    async def use(self, facts: Facts, home: Home, since: int) -> Copy:
        """The copy of a version that the home said it has, after word number `since`; `release` it.

        Raises: NoRoom, OSError.
        """
        copy = self._find(facts)
        if copy is None:
            if len(self._by_use) >= MAX_COPIES:
                self._evict()
            copy = Copy(Partial(self._folder, secrets.token_hex(16), facts), home, self)
            tick, etag = self._heard.get((facts.bucket, facts.key), (0, None))
            if tick > since and etag != facts.etag:
                copy.doomed = True  # the home has said otherwise since it was looked at
        self._remember(copy)
        copy.num_users += 1
        try:
            copy.renew(facts)
            await copy.open()
        except BaseException:
            self.release(copy)
            raise
        return copy

    def release(self, copy: Copy) -> None:
        """Nobody of that `use` reads any more."""
        copy.num_users -= 1
        task = asyncio.create_task(self._settle(copy))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def last(self, bucket: str, key: str) -> Facts | None:
        """The version that was read last and is not known to be old."""
        versions = self._versions.get((bucket, key))
        return None if not versions else next(reversed(versions.values())).facts

    def keys(self, bucket: str) -> Iterable[str]:
        """The keys of a bucket of which there is a copy."""
        return [key for name, key in self._versions if name == bucket]

    async def close(self) -> None:
        """Stop every fetching; nobody may read any more."""
        await asyncio.gather(*self._closing)
        for copy in self._by_use:
            await copy.close()

    def take(self, num_bytes: int) -> None:
        """See copy.Budget."""
        while self.held_bytes + num_bytes > self.limit_bytes:
            self._evict()
        self.held_bytes += num_bytes

    def give_back(self, num_bytes: int) -> None:
        """See copy.Budget."""
        self.held_bytes -= num_bytes

    def _evict(self) -> None:
        """Delete the copy that was used longest ago. Raises: NoRoom."""
        oldest = next((copy for copy in self._by_use if copy.is_closed), None)
        if oldest is None:
            raise NoRoom("all copies are being read")
        self._remove(oldest)

    def _find(self, facts: Facts) -> Copy | None:
        found = self._versions.get((facts.bucket, facts.key), {}).get(facts.etag)
        same = found is not None and (found.facts.size, found.facts.crc64) == (facts.size, facts.crc64)
        return found if same and found is not None and not found.doomed else None

    def _remember(self, copy: Copy) -> None:
        self._by_use[copy] = None
        self._by_use.move_to_end(copy)
        if not copy.doomed:
            versions = self._versions.setdefault((copy.facts.bucket, copy.facts.key), {})
            versions.pop(copy.facts.etag, None)
            versions[copy.facts.etag] = copy

    def _doom(self, copy: Copy) -> None:
        copy.doomed = True
        self._forget(copy)
        if copy.is_closed:
            self._remove(copy)

    def _forget(self, copy: Copy) -> None:
        name = (copy.facts.bucket, copy.facts.key)
        versions = self._versions.get(name, {})
        if versions.get(copy.facts.etag) is copy:
            del versions[copy.facts.etag]
        if not versions:
            self._versions.pop(name, None)

    def _remove(self, copy: Copy) -> None:
        self._forget(copy)
        self._by_use.pop(copy, None)
        copy.remove()

    async def _settle(self, copy: Copy) -> None:
        """Behind a reader: end what nobody waits for, and the copy if it is not to be read again."""
        if copy.num_users:
            await copy.stop_unwanted()
            return
        await copy.close()
        if copy.doomed and copy.is_closed and copy in self._by_use:
            self._remove(copy)
