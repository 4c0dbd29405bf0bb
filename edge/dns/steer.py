"""Which POPs a client is sent to, the best first: by measured round trips, else by the operator's table or order.

Round trips within one STEP_MS are equal, so noise moves nobody. A client whose best measured POP is slow tries one that
nobody measured, in one of EXPLORE_EVERY periods: who always landed in one place would never learn of another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from zlib import crc32

from edge.dns.client import Networks, is_whole
from edge.dns.zone import NUM_RANKED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edge.dns.client import Client, Network
    from edge.dns.rtt import RttTable
    from edge.dns.settings import Pop
    from edge.dns.zone import Ranking

STEP_MS: Final = 5.0
SLOW_MS: Final = 25.0  # nearer than this another POP gains nothing that a token would show
EXPLORE_EVERY: Final = 16
MAX_CACHED: Final = 65_536


class Steering:
    """`ranking(client)`; told of health by `set_up` and of time by `tick`."""

    def __init__(self, pops: Sequence[Pop], rtts: RttTable, period_s: float) -> None:
        """Raises ValueError: a network that two POPs claim or that is too fine, a name that is no POP."""
        self._orders = _orders(pops)
        self._default = tuple(range(len(pops)))
        self._geography = Networks(_claims(pops))
        self._rtts = rtts
        self._period_s = period_s
        self._up = frozenset(self._default)
        self._now = 0.0
        self._cache: dict[Client, Ranking] = {}

    @property
    def up(self) -> frozenset[int]:
        """The POPs that are answered with."""
        return self._up

    def set_up(self, up: frozenset[int]) -> None:
        """These POPs are well. None at all: the last that were, since an answer may help and silence cannot."""
        if up and up != self._up:
            self._up = up
            self._cache.clear()

    def tick(self, now: float) -> None:
        """Time has passed (seconds of any steady clock): in a new period somebody else explores."""
        if now // self._period_s != self._now // self._period_s:
            self._cache.clear()
        self._now = now

    def note(self, client: Client, pop: int, rtt_ms: float) -> None:
        """A round trip was measured."""
        self._rtts.note(client, pop, rtt_ms, self._now)
        self._cache.pop(client, None)

    def ranking(self, client: Client) -> Ranking:
        """At most NUM_RANKED POPs."""
        found = self._cache.get(client)
        if found is None:
            if len(self._cache) >= MAX_CACHED:
                self._cache.clear()
            found = self._cache[client] = self._ranked(client)
        return found

    def _ranked(self, client: Client) -> Ranking:
        nearest = self._geography.find(client)
        order = self._default if nearest is None else self._orders[nearest]
        measured = self._rtts.of(client, self._now) if is_whole(client) else {}
        ordered = _by_round_trip(order, measured, nearest, self._up)
        if self._explores(client, measured):
            ordered.sort(key=lambda pop: pop in measured)
        return tuple(ordered[:NUM_RANKED])

    def _explores(self, client: Client, measured: Mapping[int, float]) -> bool:
        best = min((rtt for pop, rtt in measured.items() if pop in self._up), default=0.0)
        period = int(self._now // self._period_s)
        return best > SLOW_MS and (crc32(client) + period) % EXPLORE_EVERY == 0


def _by_round_trip(
    order: Sequence[int], measured: Mapping[int, float], nearest: int | None, up: frozenset[int]
) -> list[int]:
    """Measured POPs, then the others; but who should be nearest and was not measured goes before slow ones."""

    def place(pop: int) -> float:
        rtt = measured.get(pop)
        if rtt is None:
            return SLOW_MS // STEP_MS if pop == nearest else float("inf")
        return rtt // STEP_MS

    return sorted((pop for pop in order if pop in up), key=place)


def _orders(pops: Sequence[Pop]) -> list[tuple[int, ...]]:
    """For each POP: itself, who stands in for it, then the others as they come in the file."""
    index = {pop.name: number for number, pop in enumerate(pops)}
    found = []
    for number, pop in enumerate(pops):
        for name in pop.following:
            if name not in index:
                raise ValueError(f"{name!r}, which follows {pop.name!r}, is not a POP")
        found.append(
            tuple(dict.fromkeys((number, *(index[name] for name in pop.following), *range(len(pops)))))
        )
    return found


def _claims(pops: Sequence[Pop]) -> dict[Network, int]:
    claims: dict[Network, int] = {}
    for number, pop in enumerate(pops):
        for network in pop.near:
            if network in claims:
                raise ValueError(f"{network} is near both {pops[claims[network]].name!r} and {pop.name!r}")
            claims[network] = number
    return claims
