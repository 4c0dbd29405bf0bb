"""Registers for a store that has no compare-and-swap: each value is an object of its own, created once, numbered.

`generations/KEY/0000000007` holds a nonce and the value. KEY itself holds a hint: which number was the newest when it
was written, and which is the lowest that is kept. (Iceberg's tables on plain file systems are made so.)

Rule 1: the numbers are dense: who has read N creates N+1 with If-None-Match: *, and says so in the hint.
Rule 2: the newest is found by walking up from the hint. Listings may be late: one is asked for only if the hint is too.
Rule 3: old generations go from the lowest up and never past the hint, so while N is there, N+1 is there or never was.
Rule 4: a store may look before it writes and not as it writes, and tell several creators at once that each was the
    first; the last to land stays (OpenStack Swift: up to 7 of 16). So a creation counts once it has stood for
    `settle_s`, and is moved over only then. What is assumed: no PUT takes effect later than that after another
    one of the same key, which it did not see, has. A read may meanwhile show a creation that will not have counted:
    readers of a register look again when its hint changes, as it does with every move that counts.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from regions.map.names import SYSTEM_BUCKET
from regions.map.region import MAX_ROW_BYTES
from storage.client.sdk import NotFound, PreconditionFailed, StoreError, Unreachable
from weights_cache.model.revision import canonical_json
from weights_cache.model.strict import StrictError, fields, hexadecimal, integer, one_of, parse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from regions.objects.store import Store

SETTLE_S = 2.0  # a PUT of some KiB takes 40 ms on an idle Swift, and 0.5 s among 16 to one key on two cores
GENERATIONS = "generations/"
KEPT = 8  # generations behind the newest: a reader may be that far behind before it has to list
TRIES = 5  # to find the newest of a register that moves under the reader
HINT_SCHEMA = "nearfield.hint/1"
MAX_HINT_BYTES = 1024
NONCE_DIGITS = 16
MAX_VALUE_BYTES = MAX_ROW_BYTES  # the policy row is the largest value that is moved
MARK_SEPARATOR = ":"  # in a token: an ETag has none


@dataclass(frozen=True, slots=True)
class Mark:
    """One creation of one number: a number that was created twice has two nonces. Number 0: nothing yet."""

    number: int
    nonce: str

    @property
    def token(self) -> str:
        """The mark as a register's token."""
        return f"{self.number}{MARK_SEPARATOR}{self.nonce}"


NOTHING = Mark(0, "")


@dataclass(frozen=True, slots=True)
class Generation:
    """A value and its mark. An empty value: cleared."""

    mark: Mark
    value: bytes


@dataclass(frozen=True, slots=True)
class Hint:
    """Never past the newest; below `oldest` all is gone."""

    mark: Mark
    oldest: int

    def to_json(self) -> bytes:
        """Canonical JSON with its schema."""
        number, nonce = self.mark.number, self.mark.nonce
        return canonical_json(
            {"schema": HINT_SCHEMA, "number": number, "nonce": nonce, "oldest": self.oldest}
        )


def hint_in(data: bytes) -> Hint | None:
    """The hint that an object holds; None if it is a value."""
    try:
        found = fields(parse(data, MAX_HINT_BYTES), _HINT, "hint")
    except StrictError:
        return None
    return Hint(Mark(found["number"], found["nonce"]), found["oldest"])


class OvertakenError(Exception):
    """The generation that was walked up from is gone, or another's: look again where the newest is."""


class Numbered:
    """Registers in numbered generations (see Register)."""

    def __init__(
        self,
        store: Store,
        bucket: str = SYSTEM_BUCKET,
        settle_s: float = SETTLE_S,
        kept: int = KEPT,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._bucket = bucket
        self._settle_s = settle_s
        self._kept = kept
        self._pause = pause
        self._settled: dict[str, Mark] = {}  # key -> the last mark that this process saw stand

    async def read(self, key: str, max_bytes: int = MAX_VALUE_BYTES) -> tuple[bytes, str] | None:
        """See Register. Says in the hint what a mover that died could not."""
        hint = await self._hint(key)
        newest = await self._newest(key, hint)
        if newest is None:
            return None
        if len(newest.value) > max_bytes:
            raise StoreError("TooLarge", f"{key} has over {max_bytes} bytes")
        if hint is None or hint.mark != newest.mark:
            await self._write_hint(key, Hint(newest.mark, hint.oldest if hint else 1))
        return (newest.value, newest.mark.token) if newest.value else None

    async def move(self, key: str, value: bytes, over: str | None) -> str:
        """See Register. Takes `settle_s`, and as long again over what this process has not seen stand."""
        before = await self._before(key, over)
        mine = Mark(before.number + 1, secrets.token_hex(NONCE_DIGITS // 2))
        await self._create(key, Generation(mine, value))
        await self._pause(self._settle_s)
        if await self._mark_at(key, mine.number) != mine:
            raise _conflict(key)
        await self._check_dense(key, before, mine)
        self._settled[key] = mine
        await self._announce(key, mine)
        return mine.token

    async def clear(self, key: str) -> None:
        """See Register."""
        for _ in range(TRIES):
            found = await self.read(key)
            if found is None:
                return
            try:
                await self.move(key, b"", found[1])
            except PreconditionFailed:
                continue
            return
        raise _conflict(key)

    # ---- finding the newest

    async def _newest(self, key: str, hint: Hint | None) -> Generation | None:
        known = hint.mark if hint else NOTHING
        for _ in range(TRIES):
            try:
                return await self._walked(key, known)
            except OvertakenError:
                known = await self._listed(key, hint.oldest if hint else 1)
        raise Unreachable("Unreachable", f"{key} moves faster than it can be read")

    async def _walked(self, key: str, known: Mark) -> Generation | None:
        """The newest, by walking up from a known one. Raises OvertakenError."""
        while (after := await self._at(key, known.number + 1)) is not None:
            known = after.mark
        if known == NOTHING:
            return None
        here = await self._at(key, known.number)  # once more: it may have gone with the next one
        if here is None or here.mark != known:
            raise OvertakenError(key)
        return here

    async def _listed(self, key: str, oldest: int) -> Mark:
        """The highest generation that a listing shows and that is there. Raises Unreachable if none is."""
        for number in sorted(await self._numbers(key), reverse=True):
            found = await self._at(key, number) if number >= oldest else None
            if found is not None:
                return found.mark
        raise Unreachable("Unreachable", f"no generation of {key} is listed, though its hint names one")

    async def _numbers(self, key: str) -> list[int]:
        folder = f"{GENERATIONS}{key}/"
        names = [each.key[len(folder) :] async for each in self._store.list(self._bucket, folder)]
        return [int(name) for name in names if name.isdecimal()]

    async def _has_later(self, key: str, mine: Mark) -> bool:
        """Whether the first one of a register is none: a hint that a sleeper wrote late may be of long ago."""
        return any(number > mine.number for number in await self._numbers(key))

    # ---- one move

    async def _before(self, key: str, over: str | None) -> Mark:
        """The mark to move over, which stands for good. Raises PreconditionFailed if it is not `over`'s."""
        newest = await self._newest(key, await self._hint(key))
        before = newest.mark if newest else NOTHING
        if over != (before.token if newest and newest.value else None):
            raise _conflict(key)
        if before not in {NOTHING, self._settled.get(key)}:
            await self._pause(self._settle_s)
            if await self._mark_at(key, before.number) != before:
                raise _conflict(key)
            self._settled[key] = before
        return before

    async def _create(self, key: str, mine: Generation) -> None:
        place, data = _place(key, mine.mark.number), mine.mark.nonce.encode() + b"\n" + mine.value
        try:
            await self._store.put(self._bucket, place, data, if_none_match=True)
        except PreconditionFailed:
            if await self._mark_at(key, mine.mark.number) != mine.mark:
                raise  # else the answer to a first attempt was lost and the SDK asked again

    async def _check_dense(self, key: str, before: Mark, mine: Mark) -> None:
        """Raises PreconditionFailed if the number of `mine` may have been used and removed before it was created."""
        hint = await self._hint(key)
        if before == NOTHING:
            was_used = (hint is not None and hint.mark.number > mine.number) or await self._has_later(
                key, mine
            )
        else:
            was_used = await self._mark_at(key, before.number) != before
        if was_used and hint is not None and hint.oldest > mine.number:
            await self._store.delete(self._bucket, _place(key, mine.number))  # nobody else ever will
        if was_used:
            raise _conflict(key)

    async def _announce(self, key: str, mine: Mark) -> None:
        """Removes what is far behind, then lets the hint name `mine`, unless it is past that already."""
        hint = await self._hint(key)
        oldest, passed = (hint.oldest, hint.mark.number) if hint else (1, 0)
        end = max(oldest, min(mine.number - self._kept, passed))
        for number in range(oldest, end):
            await self._store.delete(self._bucket, _place(key, number))
        if passed <= mine.number:
            await self._write_hint(key, Hint(mine, end))

    # ---- objects

    async def _hint(self, key: str) -> Hint | None:
        """The hint of a key. Raises PreconditionFailed if a value lies there, which is another layout's."""
        data = await self._bytes(key)
        hint = None if data is None else hint_in(data)
        if data is not None and hint is None:
            raise _conflict(key)
        return hint

    async def _write_hint(self, key: str, hint: Hint) -> None:
        await self._store.put(self._bucket, key, hint.to_json())

    async def _mark_at(self, key: str, number: int) -> Mark | None:
        found = await self._at(key, number)
        return None if found is None else found.mark

    async def _at(self, key: str, number: int) -> Generation | None:
        data = await self._bytes(_place(key, number))
        if data is None:
            return None
        nonce, _, value = data.partition(b"\n")
        return Generation(Mark(number, nonce.decode("ascii", "replace")), value)

    async def _bytes(self, key: str) -> bytes | None:
        try:
            got = await self._store.get(self._bucket, key, max_bytes=MAX_VALUE_BYTES + NONCE_DIGITS + 1)
        except NotFound:
            return None
        return got.data


def _place(key: str, number: int) -> str:
    return f"{GENERATIONS}{key}/{number:010d}"


def _conflict(key: str) -> PreconditionFailed:
    return PreconditionFailed("PreconditionFailed", f"{key} was moved by another", 412)


_HINT = {
    "schema": one_of(HINT_SCHEMA),
    "number": integer(1),
    "nonce": hexadecimal(NONCE_DIGITS),
    "oldest": integer(1),
}
