"""Who is connected to one listener, under which limits, and who answers them."""

import asyncio
import email.utils
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from wire.exchange import Exchange
from wire.limits import Limits

Handler = Callable[[Exchange], Awaitable[None]]
Met = Callable[[asyncio.Transport, str], None]
"""Told of each admitted connection and its peer's address, once its handshakes are done."""


class Member(Protocol):
    """One connection, as its listener handles it."""

    def check(self, now: float) -> None:
        """Enforce the deadlines that apply at `now` (loop time)."""

    def close_if_idle(self) -> None:
        """End now if no request is under way."""

    def cut(self) -> None:
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
    only_uid: int | None = None  # set on a Unix socket: whose processes may connect
    members: set[Member] = field(default_factory=set)
    num_by_address: dict[str, int] = field(default_factory=dict)
    draining: bool = False
    emptied: asyncio.Event = field(default_factory=asyncio.Event)
    date: str = ""

    def tick(self) -> None:
        """Refresh the Date header: once a sweep instead of once a request."""
        self.date = email.utils.formatdate(time.time(), usegmt=True)

    def admit(self, member: Member, address: str) -> bool:
        """Count a new connection in; False if a cap is reached (it is counted all the same)."""
        num = self.num_by_address[address] = self.num_by_address.get(address, 0) + 1
        self.members.add(member)
        fits = len(self.members) <= self.limits.max_connections and num <= self.limits.max_per_address
        return fits and not self.draining

    def leave(self, member: Member, address: str) -> None:
        """Count a lost connection out."""
        self.members.discard(member)
        left = self.num_by_address.pop(address, 1) - 1
        if left:
            self.num_by_address[address] = left
        if not self.members:
            self.emptied.set()
