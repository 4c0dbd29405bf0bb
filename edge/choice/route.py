"""From an ask to regions in order, with every term of the decision; or the refusal that says why there is none."""

from __future__ import annotations

import random
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

from edge.choice import prefer
from edge.choice.prefixes import LEAST_TOKENS, NOWHERE, Prefixes, marks
from edge.choice.starts import Starts, full
from edge.rows.serving import Serving
from regions.choose import nearest, rank
from regions.chosen import prewarm, route_header
from regions.map.headers import PREFER_REGION, PREFER_REPLICA, REGION
from regions.map.region import ROW_STALE_S
from regions.settle import Wish, chance_decides
from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge.choice.prefixes import Mark
    from edge.choice.starts import Start
    from edge.reach.region import Reach
    from edge.relay.holdoff import Holdoffs
    from edge.rows.feed import Feed
    from regions.ask import Ask
    from regions.choose import Near
    from regions.chosen import Choice
    from regions.health import RegionHealth
    from regions.map.policy import Rules
    from regions.rows import Heard, Snapshot
    from wire.http.http1 import RequestHead

MAX_REMEMBERED: Final = 4096  # models whose last region is kept for hysteresis; a row holds about as many
NEAR_S: Final = 0.1  # between two looks at the measured distances, which change each second
RETRY_S: Final = 2.0  # for a model that is on its way; a rollout step takes about that
Only = frozenset[str] | None
_Wanted = tuple[str | None, str | None, str | None]
_Alike = tuple[str, int, str | None, str, _Wanted]
_NOTHING: Final[_Wanted] = (None, None, None)


class Grounds(NamedTuple):
    """What a decision rests on that neither time nor chance has a say in: until `until` (loop time) it stands on it."""

    snapshot: Snapshot
    near: Near
    healths: tuple[tuple[Reach, RegionHealth], ...]
    until: float
    model: str
    tenant: str


class Asker(NamedTuple):
    """Who asks, and with what head and body."""

    tenant: str = ""
    head: RequestHead | None = None
    body: bytes = b""


NOBODY: Final = Asker()


class Decision(NamedTuple):
    """Where to send a request: `choices` best first, never empty; `simulated_wan` names the profile, if one.

    `resident_in` are the regions that its bytes may enter at all, None for all. `grounds`: see `Chooser.stands`.
    `start`: the first choice has just become warm, and the request counts as one of its start while it is under way.
    """

    choices: tuple[Choice, ...]
    simulated_wan: str | None = None
    resident_in: Only = None
    grounds: Grounds | None = None
    start: Start | None = None

    def terms(self) -> str:
        """Every term of the decision, as the header `x-nearfield-route` says them."""
        return route_header(self.choices, self.simulated_wan)

    def prewarm(self) -> str | None:
        """The near cold region to wake, if one is worth it."""
        return prewarm(self.choices)


class Chooser:
    """Applies `regions.choose` to what this edge knows; remembers the last region of each model, and of prompts.

    What it decided for one, it says to all who ask alike while it stands: rows come each second, and a thousand
    connections would each decide anew.
    """

    def __init__(
        self, feed: Feed, reaches: Mapping[str, Reach], simulated_wan: str | None, holdoffs: Holdoffs
    ) -> None:
        self._feed = feed
        self._reaches = reaches
        self._simulated_wan = simulated_wan
        self._holdoffs = holdoffs
        self._previous: OrderedDict[tuple[str, Only, Only], str] = OrderedDict()
        self._prefixes = Prefixes()
        self._near: Near = ()
        self._near_at = float("-inf")
        self._serving = Serving()
        self._starts = Starts()
        self._standing: dict[_Alike, Decision] = {}
        self._standing_on: Snapshot | None = None

    @property
    def rows(self) -> Mapping[str, Heard]:
        """What is chosen by."""
        return self._feed.snapshot.regions

    def choose(self, ask: Ask, pinned: str | None, now: float, asker: Asker = NOBODY) -> Decision:
        """The regions for `ask` at `now` (loop time), only `pinned` if that is given.

        Raises Refusal 400 (an unknown region is asked for), 403 (one that the rules forbid), 404 or 503.
        """
        alike = _alike(ask, pinned, asker)
        known = self._standing.get(alike)
        if known is not None and self.stands(known, now):
            return known
        decision = self._decide(ask, pinned, now, asker)
        if decision.grounds is not None:
            self._keep(alike, decision, decision.grounds.snapshot)
        return decision

    def _keep(self, alike: _Alike, decision: Decision, on: Snapshot) -> None:
        if on is not self._standing_on or len(self._standing) >= MAX_REMEMBERED:
            self._standing, self._standing_on = {}, on
        self._standing[alike] = decision

    def _decide(self, ask: Ask, pinned: str | None, now: float, asker: Asker) -> Decision:
        snapshot, rules = self._feed.snapshot, self._feed.rules
        wanted = prefer.ANYWHERE if asker.head is None else prefer.where(asker.head, rules, self._reaches)
        self._serving.renew(snapshot, rules)
        allowed = self._allowed(ask.model, pinned, asker.tenant, wanted.only)
        of = self._marks(ask, asker)
        starts = self._starts.young(ask.model, snapshot.regions, now)
        wish = self._wish(self._serving.where(ask.model, allowed), wanted.first, rules, of, now)
        key = ask.model, allowed, wanted.first or None
        choices = rank(
            ask.model,
            snapshot.regions,
            self._nearest(now),
            self._reaches,
            prompt_tokens=ask.prompt_tokens,
            now=now,
            wish=wish._replace(full=full(starts)) if starts else wish,
            previous=self._previous.get(key),
            draws=(random.random(), random.random(), random.random()),  # noqa: S311 - spreads load
        )
        if not choices:
            raise not_served(ask.model, snapshot, allowed)
        self._remember(key, choices[0].region)
        choices = self._holdoffs.ordered(choices, ask.model, now, asker.tenant)
        if of:
            self._prefixes.sent(of, choices[0].region, now)
        resident_in = self._serving.resident_in(asker.tenant, ask.model)
        lasting = not (self._may_be_kept(ask) or (starts and len(choices) > 1))
        grounds = self._grounds(choices, snapshot, now, ask.model, asker.tenant) if lasting else None
        return Decision(choices, self._simulated_wan, resident_in, grounds, starts.get(choices[0].region))

    def stands(self, decision: Decision, now: float) -> bool:
        """Whether the same asker's request for the same model with as long a prompt is decided so again."""
        grounds = decision.grounds
        if (
            grounds is None
            or grounds.snapshot is not self._feed.snapshot
            or now >= grounds.until
            or grounds.near is not self._nearest(now)
            or self._is_held_off(decision.choices, grounds.model, grounds.tenant, now)
        ):
            return False
        for reach, health in grounds.healths:  # noqa: SIM110 - each request comes here, and a generator is a frame
            if reach.health is not health:
                return False
        return True

    def _is_held_off(self, choices: tuple[Choice, ...], model: str, tenant: str, now: float) -> bool:
        """Whether one of several regions is left alone for a time, so that another may be first."""
        if len(choices) < 2 or not self._holdoffs:
            return False
        return self._holdoffs.reorder([each.region for each in choices], model, now, tenant)

    def _grounds(
        self, choices: tuple[Choice, ...], snapshot: Snapshot, now: float, model: str, tenant: str
    ) -> Grounds | None:
        """None where one of several equals was drawn, or a region is not as usual or left alone for a time."""
        healths = tuple([(reach, reach.health) for reach in self._reaches.values()])
        until = min([heard.at for heard in snapshot.regions.values()]) + ROW_STALE_S
        if now >= until or chance_decides(choices) or not all(health.is_usual for _, health in healths):
            return None
        if self._is_held_off(choices, model, tenant, now):
            return None
        return Grounds(snapshot, self._near, healths, until, model, tenant)

    def _allowed(self, model: str, pinned: str | None, tenant: str, only: Only) -> Only:
        """The regions that listener, client and rules leave, None for all. Raises Refusal 403 if they leave none."""
        if pinned is not None:
            if only is not None and pinned not in only:
                text = f"This address is that of {pinned} alone; ask another, or leave the header out."
                raise Refusal(400, "bad_request", text, param=REGION)
            only = frozenset({pinned})
        resident_in = self._serving.resident_in(tenant, model)
        if resident_in is None:
            return only
        allowed = resident_in if only is None else resident_in & only
        if not allowed:
            text = f"{model} may only be served in {_names(resident_in)}; ask there, or name no region."
            raise Refusal(403, "outside_residency", text)
        return allowed

    def _wish(
        self, allowed: Only, first: frozenset[str], rules: Rules, of: tuple[Mark, ...], now: float
    ) -> Wish:
        drained = frozenset(rules.drained) if rules.drained else _NO_REGION
        cached = self._prefixes.known(of, now) if of else NOWHERE
        return Wish(allowed, first, drained, cached, of[0].digest if of else b"")

    def _marks(self, ask: Ask, asker: Asker) -> tuple[Mark, ...]:
        """The beginnings of a prompt that is long enough to go where it was, if there is anywhere else to go."""
        if asker.head is None or not self._may_be_kept(ask):
            return ()
        return marks(asker.tenant, ask.model, asker.head.path, asker.body)

    def _may_be_kept(self, ask: Ask) -> bool:
        """Whether a region may have pages of the prompt that another has not."""
        return ask.prompt_tokens >= LEAST_TOKENS and len(self._reaches) > 1

    def _nearest(self, now: float) -> Near:
        if now - self._near_at >= NEAR_S:
            near, self._near_at = nearest(self._reaches), now
            self._near = self._near if near == self._near else near
        return self._near

    def _remember(self, key: tuple[str, Only, Only], region: str) -> None:
        if self._previous.get(key) == region:
            return
        self._previous[key] = region
        self._previous.move_to_end(key)
        if len(self._previous) > MAX_REMEMBERED:
            self._previous.popitem(last=False)


_NO_REGION: Final[frozenset[str]] = frozenset()


def _alike(ask: Ask, pinned: str | None, asker: Asker) -> _Alike:
    """All that a decision hears of a request, but for a prompt's beginning; one with that in it never stands."""
    head = asker.head
    wanted = (
        _NOTHING if head is None else (head.get(REGION), head.get(PREFER_REGION), head.get(PREFER_REPLICA))
    )
    return ask.model, ask.prompt_tokens, pinned, asker.tenant, wanted


def not_served(model: str, snapshot: Snapshot, allowed: Only) -> Refusal:
    """Why no region may be asked for `model`: unknown, refused, on its way, elsewhere, or nothing is known at all."""
    rows = [heard.row for name, heard in snapshot.regions.items() if allowed is None or name in allowed]
    if not rows:
        text = "This edge has not heard from a region yet; try again shortly."
        if allowed is not None and snapshot.regions:
            text = f"No region of {_names(allowed)} was heard from, and {model} may not be served elsewhere."
        return Refusal(503, "region_unavailable", text, "server_error", retry_after_s=RETRY_S)
    found = [row.models[model] for row in rows if model in row.models]
    fault = next((row.error for row in found if row.error is not None), None)
    if fault is not None:
        text = f"{model} was refused: {fault.message} {fault.next}"
        return Refusal(404, "model_not_found", text, param="model")
    if found:
        text = f"{model} is on its way ({found[0].state}); ask again shortly."
        return Refusal(503, "model_not_ready", text, "server_error", retry_after_s=RETRY_S)
    return unknown_model(model, allowed)


def unknown_model(model: str, allowed: Only) -> Refusal:
    """There is no such model, or not for this key: the two are not to be told apart."""
    where = "here" if allowed is None else f"in {_names(allowed)}"
    text = f"{model} is not served {where}; GET /v1/models lists what is."
    return Refusal(404, "model_not_found", text, param="model")


def _names(regions: frozenset[str]) -> str:
    return ", ".join(sorted(regions)) or "no region"
