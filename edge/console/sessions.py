"""Who is logged in at the console. Pure: time and random bytes are arguments.

Rule 1: a session is for the holder of an admin key, and holds while the policy in force knows that key and its scope.
Rule 2: it has two halves. The cookie, which no script reads, goes with whatever the browser sends to this host, and
cookies know no ports; the page's token is known to scripts of this origin alone, and is sent by them alone. Neither
opens anything by itself. The edge keeps digests of both.
Rule 3: a ticket is worth one log-in, soon. It is how `nearfield console` logs a browser in without showing it the key.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from regions.map.policy import KeyGrant, PolicyRow

SCOPE: Final = "admin"
IDLE_S: Final = 3600.0  # without a word from the page; an open one speaks at least every quarter of an hour
LIFE_S: Final = 12 * 3600.0  # a working day
TICKET_S: Final = 60.0  # from the command line to the browser beside it
MAX_SESSIONS: Final = 64  # operators and their tabs; the one that was silent longest makes room
MAX_TICKETS: Final = 16
NUM_RANDOM_BYTES: Final = 32


class Halves(NamedTuple):
    """What the two of a new session are told to the browser as; kept nowhere here."""

    cookie: str
    token: str


@dataclass(slots=True)
class Session:
    """`key` is the digest of the admin key, `token` that of the page's half; times are monotonic seconds."""

    key: str
    token: bytes
    since: float
    heard: float

    def is_over(self, now: float) -> bool:
        """Whether it has lived or idled long enough."""
        return now - self.since > LIFE_S or now - self.heard > IDLE_S


class Sessions:
    """`draw(n)` gives n random bytes."""

    def __init__(self, draw: Callable[[int], bytes]) -> None:
        self._draw = draw
        self._open: OrderedDict[bytes, Session] = OrderedDict()  # by the digest of the cookie
        self._tickets: OrderedDict[bytes, tuple[str, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def log_in(self, key: str, policy: PolicyRow | None, now: float, wall_s: float) -> Halves | None:
        """A session for an admin key; None for any other string."""
        digest = hashlib.sha256(key.encode()).hexdigest()
        return None if _admin(digest, policy, wall_s) is None else self._begin(digest, now)

    def ticket(self, key_digest: str, now: float) -> str:
        """What logs the holder of this admin key in once."""
        ticket = self._draw(NUM_RANDOM_BYTES).hex()
        self._tickets[_digest(ticket)] = key_digest, now + TICKET_S
        if len(self._tickets) > MAX_TICKETS:
            self._tickets.popitem(last=False)
        return ticket

    def redeem(self, ticket: str, policy: PolicyRow | None, now: float, wall_s: float) -> Halves | None:
        """A session for a ticket, which is worth nothing then; None if it was worth nothing before."""
        key, end = self._tickets.pop(_digest(ticket), ("", 0.0))
        if now >= end or _admin(key, policy, wall_s) is None:
            return None
        return self._begin(key, now)

    def holder(
        self, cookie: str, token: str | None, policy: PolicyRow | None, now: float, wall_s: float
    ) -> tuple[str, KeyGrant] | None:
        """The digest and the grant of the key behind a session; None if there is none, or none any more.

        `token` None is for what a browser opens by itself, where scripts send nothing.
        """
        name = _digest(cookie)
        session = self._open.get(name)
        if session is None or (token is not None and not hmac.compare_digest(session.token, _digest(token))):
            return None
        grant = _admin(session.key, policy, wall_s)
        if grant is None or session.is_over(now):
            del self._open[name]
            return None
        session.heard = now
        self._open.move_to_end(name)
        return session.key, grant

    def end(self, cookie: str) -> None:
        """Log out."""
        self._open.pop(_digest(cookie), None)

    def _begin(self, key: str, now: float) -> Halves:
        halves = Halves(self._draw(NUM_RANDOM_BYTES).hex(), self._draw(NUM_RANDOM_BYTES).hex())
        self._open[_digest(halves.cookie)] = Session(key, _digest(halves.token), now, now)
        if len(self._open) > MAX_SESSIONS:
            self._open.popitem(last=False)
        return halves


def _digest(half: str) -> bytes:
    return hashlib.sha256(half.encode()).digest()


def _admin(digest: str, policy: PolicyRow | None, wall_s: float) -> KeyGrant | None:
    """What an admin key grants; None for any other, and for one that has ended. Found by its whole digest."""
    grant = policy.keys.get(digest) if policy is not None else None
    if grant is None or SCOPE not in grant.scopes or (grant.expires_s and wall_s >= grant.expires_s):
        return None
    return grant
