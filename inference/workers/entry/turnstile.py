"""Whose request goes on next, before anything is spent on it: turns between tenants at one engine. Plain, no clock.

The engine shares out slots and steps (`engine.steps.tenants`, `crowd`), but what a request costs on its way there,
its template and tokens, and what each token costs on its way back, is paid by the node in the order of arrival. So as
many go on as the engine can hold, and those beyond wait here, where they cost nothing.

A tenant with less than its share of the places goes in at once, whoever fills them. While others are here, or were
within `LINGER_S`, a tenant with far more requests than they have (`crowd.crowds`) has as many inside as the fullest
of them, `LEAST_BESIDE` at least, for each unit of weight: on a CPU each of its tokens takes from the cores that
compute theirs. For each of those `WAITING_BESIDE` wait, since whoever waits has cost a connection at each hop; the
others are to come back later. Of one tenant, requests go by rank as in the engine; who is less urgent does not count
against who is more.
"""

from __future__ import annotations

import math
from bisect import insort
from operator import attrgetter
from typing import TYPE_CHECKING

from inference.engine.steps.crowd import crowds
from inference.engine.steps.drain import Drain
from inference.engine.steps.rows import AGE_S

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_WAITING = 256
"""Guests that wait. One more turns away the last of the tenant that has most of them, as in the engine's own queue."""
LINGER_S = 1.0
"""Who asks once in a while is here in between: or a crowd would fill the places in each pause of theirs."""
LEAST_BESIDE = 4
"""Streams of a crowd beside others: what a quota that held had (`bench fair`: 1.15 times what they see alone)."""
WAITING_BESIDE = 8
"""Guests of a crowd that wait beside others, for each that may be inside: the last waits for so many answers."""
CROWD_S = 2.0
"""Who was turned away as a crowd is one for so long, few as it has here by then: an edge holds the others back for a
second (`edge.relay.holdoff`)."""
_RANK = attrgetter("rank")


class Guest:
    """One request. It holds `size` places, one for each of its sequences, from when it `is_inside` until it leaves."""

    __slots__ = ("is_inside", "party", "priority", "rank", "size")

    def __init__(self, party: Party, priority: int, size: int, rank: tuple[float, int]) -> None:
        self.party, self.priority, self.size, self.rank = party, priority, size, rank
        self.is_inside = False


class Party:
    """One tenant's guests."""

    __slots__ = ("inside", "last_s", "name", "num_inside", "told_s", "turn", "waiting", "weight")

    def __init__(self, name: str) -> None:
        self.name = name
        self.weight = 1
        self.inside: dict[int, int] = {}
        """Places by priority."""
        self.num_inside = 0
        self.waiting: list[Guest] = []
        self.last_s = 0.0
        self.turn = 0
        """The number of its last turn, 0 before the first."""
        self.told_s = float("-inf")
        """When one of its guests was turned away for the sake of others."""

    @property
    def num_requests(self) -> int:
        """What it wants: places that it has and guests that wait."""
        return self.num_inside + len(self.waiting)

    @property
    def held(self) -> float:
        """Its places for each unit of weight."""
        return self.num_inside / self.weight

    def hold(self, guest: Guest, sign: int) -> None:
        """Take a guest's places, or give them back."""
        num = guest.size * sign
        self.num_inside += num
        self.inside[guest.priority] = self.inside.get(guest.priority, 0) + num

    def num_below(self, priority: int) -> int:
        """Places of guests that are less urgent."""
        return sum(num for other, num in self.inside.items() if other > priority)


class Turnstile:
    """Who is inside and who waits.

    Attributes:
        places: The bound of who is inside, in sequences; 0 for none.
        is_shy: Whether a crowd is held back while others are here.
        is_strict: Whether `places` are all there are, so that who has less than its share waits for the next one too.
    """

    def __init__(
        self,
        places: int = 0,
        *,
        is_shy: bool = True,
        is_strict: bool = False,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self.places, self.is_shy, self.is_strict = places, is_shy, is_strict
        self._max_waiting = max_waiting
        self._parties: dict[str, Party] = {}
        self._serial = 0
        self._turn = 0
        self._now = 0.0
        self._drain = Drain()
        self.num_inside = 0
        self.num_waiting = 0

    @property
    def here(self) -> Iterable[Party]:
        """The tenants that have a guest, or had one a moment ago."""
        return self._parties.values()

    @property
    def waiting(self) -> Iterator[Guest]:
        """Everybody who waits, in no order that means anything."""
        return (guest for party in self._parties.values() for guest in party.waiting)

    def come(
        self, tenant: str, now: float, *, weight: int = 1, priority: int = 0, size: int = 1
    ) -> tuple[Guest, Guest | None, list[Guest]]:
        """A new guest; who is turned away from a full queue, it or another; and who goes in, if somebody waits."""
        self._pass_time(now)
        party = self._party(tenant, now)
        party.weight = weight
        guest = Guest(party, priority, size, (now + priority * AGE_S, self._serial))
        self._serial += 1
        if not self.num_waiting and self._has_room(guest):
            self._admit(guest)
            return guest, None, []
        insort(party.waiting, guest, key=_RANK)
        self.num_waiting += 1
        admitted = self._admitted(now)  # shares have changed
        if (unlucky := self._one_too_many(guest)) is not None:
            admitted += self._admitted(now)
        return guest, unlucky, admitted

    def leave(self, guest: Guest, now: float) -> list[Guest]:
        """It is done, or has given up, wherever it was; those who go in now."""
        self._pass_time(now)
        party = guest.party
        if guest.is_inside:
            guest.is_inside = False
            party.hold(guest, -1)
            self.num_inside -= guest.size
            if self.num_waiting:
                self._drain.depart()
        elif guest in party.waiting:
            party.waiting.remove(guest)
            self.num_waiting -= 1
        party.last_s = now
        return self._admitted(now) if self.num_waiting else []

    def wait_s(self) -> float:
        """Seconds until those who wait are gone, at the pace of late."""
        return self._drain.wait_s(self.num_waiting)

    def check(self) -> None:
        """The invariants. Raises RuntimeError: a place is lost, or somebody waits who could go in."""
        held = sum(party.num_inside for party in self.here)
        if held != self.num_inside or self.num_waiting != sum(1 for _ in self.waiting):
            raise RuntimeError(f"{self.num_inside} places and {self.num_waiting} guests are counted wrongly")
        if any(self._has_room(party.waiting[0]) for party in self.here if party.waiting):
            raise RuntimeError("somebody waits, and there is room")

    def _pass_time(self, now: float) -> None:
        self._now = now
        self._drain.pass_time(now, is_busy=self.num_waiting > 0)

    def _party(self, tenant: str, now: float) -> Party:
        party = self._parties.get(tenant)
        if party is None:
            self._forget(now)
            party = self._parties[tenant] = Party(tenant)
        return party

    def _forget(self, now: float) -> None:
        """Those who have been away for long enough."""
        for party in [each for each in self._parties.values() if not each.num_requests]:
            if now - party.last_s > LINGER_S:
                del self._parties[party.name]

    def _has_room(self, guest: Guest) -> bool:
        """Whether it may go in, with those of its own that are less urgent out of its way."""
        if self.is_strict:
            return self.num_inside + guest.size <= self.places
        party = guest.party
        own = party.num_inside - (below := party.num_below(guest.priority))
        if not self.places or not own:
            return True
        if len(self._parties) == 1:
            return self.num_inside - below < self.places
        if self.is_shy and own >= self._most(party):
            return False
        return self.num_inside - below < self.places or own < self._share(party)

    def _most(self, party: Party) -> float:
        """How many places it may have beside the others."""
        many, level = crowds(list(self.here))
        if party not in many and self._now - party.told_s >= CROWD_S:
            return math.inf
        return max(LEAST_BESIDE, level) * party.weight

    def _share(self, party: Party) -> int:
        """Places that it has a right to, by weight."""
        return self.places * party.weight // sum(each.weight for each in self.here)

    def _admit(self, guest: Guest) -> None:
        guest.is_inside = True
        guest.party.hold(guest, 1)
        self._turn += 1
        guest.party.turn = self._turn
        self.num_inside += guest.size

    def _admitted(self, now: float) -> list[Guest]:
        """Who goes in: of those who may the tenant that holds least, among equals the one whose turn is longest ago."""
        self._forget(now)
        found: list[Guest] = []
        while ready := [each for each in self.here if each.waiting and self._has_room(each.waiting[0])]:
            party = min(ready, key=lambda each: (each.held, each.turn, each.waiting[0].rank))
            guest = party.waiting.pop(0)
            self.num_waiting -= 1
            self._admit(guest)
            found.append(guest)
        return found

    def _one_too_many(self, new: Guest) -> Guest | None:
        """The last of a crowd's, or of a full queue of whoever has most there; of the new one's tenant among equals."""
        if self.num_waiting > self._max_waiting:
            party = max(self.here, key=lambda each: (len(each.waiting) / each.weight, each is new.party))
        elif self._crowds_the_queue(new.party):
            party = new.party
            party.told_s = self._now
        else:
            return None
        last = party.waiting.pop()
        self.num_waiting -= 1
        return last

    def _crowds_the_queue(self, party: Party) -> bool:
        """Whether more of it wait than are to beside the others that are here."""
        num_waiting = len(party.waiting)
        if not self.is_shy or len(self._parties) == 1 or num_waiting <= WAITING_BESIDE * LEAST_BESIDE:
            return False
        return num_waiting > WAITING_BESIDE * self._most(party)
