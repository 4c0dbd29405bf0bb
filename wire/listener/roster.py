"""Who is connected to one listener, under which limits, and who answers them."""

import asyncio
import email.utils
import ipaddress
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from wire.dialect import spoken
from wire.http.http1 import Headers
from wire.http.limits import Limits
from wire.lanes.known import Lanes
from wire.listener.endings import Cause, Endings
from wire.listener.exchange import Exchange
from wire.refused.refusal import Refusal

FLOOD_SHARE = 1 / 8  # above a cap those up to this share of it are told so; on more nothing is spent
FLOOD_FEW = 8
SITE_BYTES = 8  # of an IPv6 address: whoever has one address has the /64 that it is in

Handler = Callable[[Exchange], Awaitable[None]]
Speak = Callable[[Refusal], tuple[Headers, bytes]]
"""Headers and body of what is refused before there is a handler for it, or instead of its answer."""
Met = Callable[[asyncio.Transport, str], None]
"""Told of each admitted connection and its peer's address, once its handshakes are done."""


class Member(Protocol):
    """One connection, as its listener handles it."""

    def check(self, now: float) -> None:
        """Enforce the deadlines that apply at `now` (loop time)."""

    def close_if_idle(self) -> None:
        """End now if no request is under way."""

    def cut(self, cause: Cause) -> None:
        """Reset the connection at once."""

    @property
    def task(self) -> asyncio.Task[None] | None:
        """The running handler's task, if one runs."""


@dataclass(slots=True)
class Roster:
    """What the connections of one listener have in common."""

    handler: Handler
    limits: Limits
    met: Met | None = None
    speak: Speak = spoken
    only_uid: int | None = None  # set on a Unix socket: whose processes may connect
    members: set[Member] = field(default_factory=set)
    num_by_site: Counter[str] = field(default_factory=Counter)
    arriving: Counter[str] = field(default_factory=Counter)  # by site: in their TLS handshake
    draining: bool = False
    emptied: asyncio.Event = field(default_factory=asyncio.Event)
    entered: asyncio.Event = field(default_factory=asyncio.Event)  # set while there are members
    lanes: Lanes = field(default_factory=Lanes)
    endings: Endings = field(default_factory=Endings)
    date: str = ""
    _second: int = 0  # that `date` says, since 1970

    def tick(self) -> None:
        """Refresh the Date header: once a sweep instead of once a request."""
        if (now := int(time.time())) != self._second:
            self._second = now
            self.date = email.utils.formatdate(now, usegmt=True)

    def admit(self, member: Member, address: str) -> bool:
        """Count a new connection in; False if a cap is reached (it is counted all the same)."""
        here = site(address)
        self.num_by_site[here] += 1
        if not self.members:  # nobody swept meanwhile
            self.tick()
            self.entered.set()
        self.members.add(member)
        limits = self.limits
        fits = len(self.members) <= limits.max_connections
        return fits and self.num_by_site[here] <= limits.max_per_address

    def leave(self, member: Member, address: str) -> None:
        """Count a lost connection out."""
        self.members.discard(member)
        _count_out(self.num_by_site, site(address))
        if not self.members:
            self.emptied.set()
            self.entered.clear()

    def is_flooded(self, address: str) -> bool:
        """True if so many are here, or on the way, that not even a refusal is worth what it costs."""
        here, limits = site(address), self.limits
        num_here = self.num_by_site[here] + self.arriving[here]
        num = len(self.members) + self.arriving.total()
        return num > _flood(limits.max_connections) or num_here > _flood(limits.max_per_address)

    def begin_arrival(self, address: str) -> None:
        """A connection is taken, and its handshake begins."""
        self.arriving[site(address)] += 1

    def end_arrival(self, address: str) -> None:
        """It is a member now, or gone."""
        _count_out(self.arriving, site(address))


def site(address: str) -> str:
    """Whose connection it is: an IPv4 address, or the /64 of an IPv6 one."""
    if ":" not in address:
        return address
    parsed = ipaddress.IPv6Address(address)
    return str(parsed.ipv4_mapped or parsed.packed[:SITE_BYTES].hex())


def _flood(cap: int) -> float:
    return cap * (1 + FLOOD_SHARE) + FLOOD_FEW


def _count_out(num: Counter[str], name: str) -> None:
    num[name] -= 1
    if num[name] <= 0:
        del num[name]
