"""The access keys a store honours now, and how a change of them takes effect without a restart.

Rotation: raise a key's generation. The old secret is refused from then on, unless the key says until when it is
still good (`old_until_s`), so that callers can be given the new one first. Revocation: take the key away. Both
hold for the next request after the ring has been replaced; a request under way was verified once and goes on.
Presigned URLs die with the secret that signed them.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from storage.auth.key import FLEET, AccessKey, Identity

log = logging.getLogger("nearfield.storage")

LOOK_S = 1.0  # how often the keys are looked up again: a revoked key works at most this much longer

ReadKeys = Callable[[], tuple[AccessKey, ...]]


@dataclass(frozen=True, slots=True)
class _Holder:
    identity: Identity
    secrets: tuple[str, ...]  # of the generation that is current, and of the one before it
    old_until_s: float


class KeyRing:
    """Access keys by id. Replacing them is one assignment, so a reader sees the old ring or the new one."""

    def __init__(self, keys: Iterable[AccessKey], root_key: bytes) -> None:
        self._root_key = root_key
        self._holders: dict[str, _Holder] = {}
        self.replace(keys)

    def replace(self, keys: Iterable[AccessKey]) -> None:
        """Honour exactly these from now on. Raises: ValueError if two have one id."""
        holders: dict[str, _Holder] = {}
        for key in keys:
            if key.id in holders:
                raise ValueError(f"there are two access keys {key.id!r}")
            secrets = (key.secret(self._root_key), *(old.secret(self._root_key) for old in key.before()))
            holders[key.id] = _Holder(Identity(key.id, key.grants, key.user), secrets, key.old_until_s)
        self._holders = holders

    def knows(self, user: str) -> bool:
        """True if a key of that user is honoured, or it is the fleet."""
        return user == FLEET or any(holder.identity.user == user for holder in self._holders.values())

    def find(self, key_id: str, now_s: float) -> tuple[Identity, tuple[str, ...]] | None:
        """Whose id it is and the secrets that are good at `now_s` (Unix time), None for nobody's."""
        holder = self._holders.get(key_id)
        if holder is None:
            return None
        return holder.identity, holder.secrets if now_s < holder.old_until_s else holder.secrets[:1]


async def keep_current(ring: KeyRing, read: ReadKeys, look_s: float = LOOK_S) -> None:
    """Read the keys again and again until cancelled. Keys that cannot be read change nothing, and are said once.

    A `read` that gives the very object it gave before says that nothing has changed.
    """
    said, last = "", None
    while True:
        await asyncio.sleep(look_s)
        try:
            keys = await asyncio.to_thread(read)
            if keys is not last:
                ring.replace(keys)
            said, last = "", keys
        except (OSError, ValueError) as error:
            if str(error) != said:
                log.warning("the access keys stay as they were: %s", error)
            said = str(error)
