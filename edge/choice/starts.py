"""Requests under way at models that have just become resident: a start is let grow like a connection's window.

A start gets LEAST requests at once, and one more for each that it has answered, as TCP's slow start does. So whoever is
alone is answered near from the first request on, and of a thousand no more come than the start has shown to be good
for, however slow its first answers are; a share of all requests would do neither. Each process of an edge counts its
own. Time is an argument.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from regions.rows import SLOW_START_S

if TYPE_CHECKING:
    from collections.abc import Mapping

    from regions.rows import Heard

LEAST: Final = 2  # one that is alone asks again before its last answer has ended, now and then


class Start:
    """One model that became resident in one region at `since`. `enter` and `leave` go in pairs."""

    def __init__(self, since: float) -> None:
        self.since = since
        self.num_running = 0
        self.num_answered = 0

    @property
    def is_full(self) -> bool:
        """Whether it has as many requests as it is good for so far."""
        return self.num_running >= LEAST + self.num_answered

    def enter(self) -> None:
        """A request is sent to it."""
        self.num_running += 1

    def leave(self) -> None:
        """It was answered, or given up."""
        self.num_running -= 1
        self.num_answered += 1


class Starts:
    """Those that are young, by (region, model)."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Start] = {}

    def young(self, model: str, rows: Mapping[str, Heard], now: float) -> dict[str, Start]:
        """The starts of a model by region, none of them SLOW_START_S old at `now`; usually there is none."""
        fresh = {
            name: heard.fresh[model] for name, heard in rows.items() if heard.fresh and model in heard.fresh
        }
        young = {name: since for name, since in fresh.items() if now - since < SLOW_START_S}
        if not young:
            if self._known:
                self._forget(now)
            return {}
        return {name: self._start(name, model, since, now) for name, since in young.items()}

    def _start(self, region: str, model: str, since: float, now: float) -> Start:
        known = self._known.get((region, model))
        if known is None or known.since != since:
            self._forget(now)
            known = self._known[region, model] = Start(since)
        return known

    def _forget(self, now: float) -> None:
        self._known = {key: each for key, each in self._known.items() if now - each.since < SLOW_START_S}


def full(starts: Mapping[str, Start]) -> frozenset[str]:
    """The regions that get no more for now, while another one answers within a little more."""
    return frozenset(name for name, start in starts.items() if start.is_full)
