"""Signs of life for edges: what a request that waits hears within PULSE_S, so that an edge need not wait in the dark.

Before the head it is an interim answer (102), which commits nobody; inside a stream, a comment between two events, and
only if nothing else was said meanwhile. One loop for all requests: a request of milliseconds costs a set entry, and who
came since the last beat hears nothing: an edge passes an interim answer on by its long way.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

PULSE_S: Final = 2.0  # an edge waits for five of them
COMMENT: Final = b":\n\n"


class Waiter(Protocol):
    """What waits: a Trip, or a request that is passed on.

    `spoke`: something was said to it since the last beat, or it came since; so it begins as True.
    """

    spoke: bool

    def pulse(self, comment: bytes) -> None:
        """A sign of life to its client."""


class Pulse:
    """Follows the requests that edges wait for."""

    def __init__(self) -> None:
        self._trips: set[Waiter] = set()

    def __len__(self) -> int:
        return len(self._trips)

    @contextmanager
    def follow(self, trip: Waiter) -> Iterator[None]:
        """While this is open, the trip's client hears that it is."""
        self.join(trip)
        try:
            yield
        finally:
            self.leave(trip)

    def join(self, trip: Waiter) -> None:
        """From now on the trip's client hears that it is."""
        self._trips.add(trip)

    def leave(self, trip: Waiter) -> None:
        """Until now."""
        self._trips.discard(trip)

    async def run(self) -> None:
        """Beats until cancelled: two in PULSE_S, since the first one finds out who is silent."""
        while True:
            await asyncio.sleep(PULSE_S / 2)
            self.beat()

    def beat(self) -> None:
        """One sign to everyone who heard nothing since the last beat."""
        for trip in tuple(self._trips):
            if not trip.spoke:
                trip.pulse(COMMENT)
            trip.spoke = not trip.spoke
