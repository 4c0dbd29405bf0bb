"""Which POPs are there, by what they said and when; pure."""

from typing import Final

from edge.dns.report import SILENT_S

GRACE_S: Final = 2 * SILENT_S  # a name server that has just started has heard nobody yet


class Presence:
    """`up(now)`: who may be answered with. Without reports (`told` False) all are."""

    def __init__(self, num_pops: int, now: float, *, told: bool) -> None:
        self._told = told
        self._started = now
        self._heard: dict[int, tuple[float, bool]] = {}
        self._all = frozenset(range(num_pops))

    def heard(self, pop: int, now: float, *, draining: bool) -> None:
        """It spoke."""
        self._heard[pop] = (now, draining)

    def up(self, now: float) -> frozenset[int]:
        """Those that spoke lately and do not drain; while all is quiet after a start, those that were not heard too."""
        if not self._told:
            return self._all
        young = now - self._started < GRACE_S
        return frozenset(pop for pop in self._all if self._is_up(pop, now, young=young))

    def _is_up(self, pop: int, now: float, *, young: bool) -> bool:
        heard = self._heard.get(pop)
        if heard is None:
            return young
        at, draining = heard
        return now - at < SILENT_S and not draining
