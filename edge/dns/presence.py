"""Which POPs are there, by what they said and when; pure."""

from typing import Final

from edge.dns.report import SILENT_S

GRACE_S: Final = 2 * SILENT_S  # a name server that has just started has heard nobody yet


class Presence:
    """`up(now)`: who may be answered with. Without reports (`told` False) all are."""

    def __init__(self, num_pops: int, now: float, *, told: bool) -> None:
        self._told = told
        self._started = now
        self._heard: dict[int, dict[str, tuple[float, bool]]] = {}  # by POP and process
        self._all = frozenset(range(num_pops))

    def heard(self, pop: int, now: float, *, draining: bool, process: str = "") -> None:
        """One of its processes spoke."""
        spoke = self._heard.setdefault(pop, {})
        spoke[process] = (now, draining)
        for silent in [each for each, (at, _) in spoke.items() if now - at >= SILENT_S]:
            del spoke[silent]

    def up(self, now: float) -> frozenset[int]:
        """Those of which a process spoke lately and does not drain; for a while, those that were never heard too."""
        if not self._told:
            return self._all
        young = now - self._started < GRACE_S
        return frozenset(pop for pop in self._all if self._is_up(pop, now, young=young))

    def _is_up(self, pop: int, now: float, *, young: bool) -> bool:
        if pop not in self._heard:
            return young
        lately = [draining for at, draining in self._heard[pop].values() if now - at < SILENT_S]
        return not all(lately)
