"""Which regions serve a model, and where it may be served: kept up to date with the rows, looked up by requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from regions.map.policy import Rules
from regions.places import resident

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from regions.rows import Heard, Snapshot

MAX_REMEMBERED: Final = 4096  # residencies, by tenant and model
NOBODY: Final[frozenset[str]] = frozenset()
Only = frozenset[str] | None


class Serving:
    """An index of one snapshot and its rules."""

    def __init__(self) -> None:
        self._snapshot: Snapshot | None = None
        self._rules = Rules()
        self._heard: dict[str, Heard] = {}
        self._where: dict[str, frozenset[str]] = {}
        self._said: dict[str, list[tuple[str, ...]]] = {}  # model: its own residency, as each region has it
        self._known: dict[tuple[str, str], Only] = {}

    def renew(self, snapshot: Snapshot, rules: Rules) -> None:
        """Take in what has changed; a request for the same snapshot and rules costs a comparison."""
        if snapshot is self._snapshot and rules is self._rules:
            return
        for name, heard in snapshot.regions.items():
            before = self._heard.get(name)
            if before is not heard:
                self._heard[name] = heard
                if before is None or before.offers is not heard.offers:
                    self._move(name, before.offers.keys() if before else NOBODY, heard.offers.keys())
        said: dict[str, list[tuple[str, ...]]] = {}
        for heard in snapshot.regions.values():
            for model, places in heard.kept.items():
                said.setdefault(model, []).append(places)
        if rules is not self._rules or said != self._said:
            self._known = {}
        self._snapshot, self._rules, self._said = snapshot, rules, said

    def where(self, model: str, allowed: Only) -> frozenset[str]:
        """The regions that serve a model, of those that are allowed (None: of all)."""
        serving = self._where.get(model, NOBODY)
        return serving if allowed is None else serving & allowed

    def resident_in(self, tenant: str, model: str) -> Only:
        """The only regions that may serve a tenant's request for a model; None: any."""
        if not self._rules.residency and model not in self._said:
            return None
        key = tenant, model
        if key not in self._known:
            if len(self._known) >= MAX_REMEMBERED:
                self._known.clear()
            self._known[key] = resident(self._rules, tenant, model, self._said.get(model, ()))
        return self._known[key]

    def _move(self, region: str, before: AbstractSet[str], after: AbstractSet[str]) -> None:
        for model in after - before:
            self._where[model] = self._where.get(model, NOBODY) | {region}
        for model in before - after:
            left = self._where[model] - {region}
            if left:
                self._where[model] = left
            else:
                del self._where[model]
