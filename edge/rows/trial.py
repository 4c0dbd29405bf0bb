"""A canary edge tells the home region how it fares with new rules: for how long, and whom they would leave unserved."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Final

from regions.places import resident
from wire.dial import DialError

if TYPE_CHECKING:
    from edge.reach.region import Reach
    from edge.rows.feed import Feed
    from regions.map.policy import Rules
    from regions.rows import Snapshot
    from wire.http.http1 import Headers

PERIOD_S: Final = 1.0
ANSWER_S: Final = 5.0
JSON: Final = (("content-type", "application/json"),)

log = logging.getLogger("nearfield.edge")


def harm(old: Rules, new: Rules, snapshot: Snapshot) -> str:
    """What `new` rules break that `old` ones do not, in words; empty for nothing."""
    serving: dict[str, set[str]] = {}
    said: dict[str, list[tuple[str, ...]]] = {}
    for name, heard in snapshot.regions.items():
        for model in heard.offers:
            serving.setdefault(model, set()).add(name)
        for model, places in heard.kept.items():
            said.setdefault(model, []).append(places)
    if snapshot.regions and snapshot.regions.keys() <= set(new.drained):
        return "every region is drained"
    tenants = ["", *(name.removeprefix("tenant:") for name in new.residency if name.startswith("tenant:"))]
    for model, where in serving.items():
        for tenant in tenants:
            kept = said.get(model, ())
            if _is_lost(resident(new, tenant, model, kept), where) and not _is_lost(
                resident(old, tenant, model, kept), where
            ):
                return (
                    f"{model} is served in {', '.join(sorted(where))}, and its residency leaves none of them"
                )
    for alias, model in new.aliases.items():
        if model not in serving and old.aliases.get(alias) != model:
            return f"the alias {alias} means {model}, which no region serves"
    return ""


def _is_lost(allowed: frozenset[str] | None, where: set[str]) -> bool:
    return allowed is not None and not allowed & where


class TrialReporter:
    """Reports while a trial names this edge."""

    def __init__(self, edge: str, feed: Feed, home: Reach | None, headers: Headers) -> None:
        self._edge = edge
        self._feed = feed
        self._home = home
        self._headers = (*headers, *JSON)
        self._serial, self._since = -1, 0.0

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            await asyncio.sleep(PERIOD_S)
            await self.look(asyncio.get_running_loop().time())

    async def look(self, now: float) -> None:
        """Say how the trial under way fares, if there is one for this edge."""
        policy = self._feed.snapshot.policy
        trial = policy.trial if policy is not None else None
        if policy is None or trial is None or self._edge not in trial.edges or self._home is None:
            return
        if trial.serial != self._serial:
            self._serial, self._since = trial.serial, now
        report = {
            "edge": self._edge,
            "serial": trial.serial,
            "stood_s": round(now - self._since, 3),
            "harm": harm(policy.rules, trial.rules, self._feed.snapshot)[:500],
        }
        body = json.dumps(report).encode()
        try:
            answer = await self._home.pool.request(
                "POST", "/control/trial", self._headers, body, head_s=ANSWER_S
            )
            await answer.read(4096, ANSWER_S)
        except DialError as error:
            log.info("the home region did not hear of the trial: %s", error)
