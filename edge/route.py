"""From an ask to regions in order, with every term of the decision; or the refusal that says why there is none."""

from __future__ import annotations

import random
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

from regions.choose import offers, prewarm, rank, route_header
from wire.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge.feed import Feed
    from edge.holdoff import Holdoffs
    from edge.reach import Reach
    from regions.ask import Ask
    from regions.choose import Choice, Offer
    from regions.rows import Heard, Snapshot

MAX_REMEMBERED: Final = 4096  # models whose last region is kept for hysteresis; a row holds about as many
RETRY_S: Final = 2.0  # for a model that is on its way; a rollout step takes about that


class Decision(NamedTuple):
    """Where to send a request: `choices` best first, never empty; `simulated_wan` names the profile, if one."""

    choices: tuple[Choice, ...]
    simulated_wan: str | None = None

    def terms(self) -> str:
        """Every term of the decision, as the header `x-nearfield-route` says them."""
        return route_header(self.choices, self.simulated_wan)

    def prewarm(self) -> str | None:
        """The near cold region to wake, if one is worth it."""
        return prewarm(self.choices)


class Chooser:
    """Applies `regions.choose` to what this edge knows; remembers only the last region of each model."""

    def __init__(
        self, feed: Feed, reaches: Mapping[str, Reach], simulated_wan: str | None, holdoffs: Holdoffs
    ) -> None:
        self._feed = feed
        self._reaches = reaches
        self._simulated_wan = simulated_wan
        self._holdoffs = holdoffs
        self._previous: OrderedDict[str, str] = OrderedDict()
        self._offered_by: Snapshot | None = None
        self._offered: dict[tuple[str, str | None], tuple[Offer, ...]] = {}

    def choose(self, ask: Ask, pinned: str | None, now: float) -> Decision:
        """The regions for `ask` at `now` (loop time), only `pinned` if that is given. Raises Refusal 404 or 503."""
        previous = self._previous.get(ask.model)
        choices = rank(
            self._offers(ask.model, pinned),
            self._reaches,
            prompt_tokens=ask.prompt_tokens,
            now=now,
            previous=previous,
            draws=(random.random(), random.random(), random.random()),  # noqa: S311 - spreads load
        )
        if not choices:
            raise not_served(ask.model, self._feed.snapshot, pinned)
        if pinned is None and choices[0].region != previous:
            self._remember(ask.model, choices[0].region)
        return Decision(self._holdoffs.ordered(choices, ask.model, now), self._simulated_wan)

    def _offers(self, model: str, pinned: str | None) -> tuple[Offer, ...]:
        """Worked out once for all requests between two rows; only for models that exist, so few are kept."""
        snapshot = self._feed.snapshot
        if snapshot is not self._offered_by:
            self._offered_by, self._offered = snapshot, {}
        known = self._offered.get((model, pinned))
        if known is None and (known := offers(model, self._rows(snapshot, pinned))):
            self._offered[model, pinned] = known
        return known or ()

    def _rows(self, snapshot: Snapshot, pinned: str | None) -> Mapping[str, Heard]:
        return {
            name: heard
            for name, heard in snapshot.regions.items()
            if name in self._reaches
            and pinned in {None, name}  # a region taken out of the config is not asked
        }

    def _remember(self, model: str, region: str) -> None:
        self._previous[model] = region
        self._previous.move_to_end(model)
        if len(self._previous) > MAX_REMEMBERED:
            self._previous.popitem(last=False)


def not_served(model: str, snapshot: Snapshot, pinned: str | None) -> Refusal:
    """Why no region may be asked for `model`: unknown, refused, on its way, or nothing is known at all."""
    rows = [heard.row for name, heard in snapshot.regions.items() if pinned in {None, name}]
    if not rows:
        text = "This edge has not heard from a region yet; try again shortly."
        return Refusal(503, "region_unavailable", text, "server_error", retry_after_s=RETRY_S)
    found = [row.models[model] for row in rows if model in row.models]
    fault = next((row.error for row in found if row.error is not None), None)
    if fault is not None:
        text = f"{model} was refused: {fault.message} {fault.next}"
        return Refusal(404, "model_not_found", text, param="model")
    if found:
        text = f"{model} is on its way ({found[0].state}); ask again shortly."
        return Refusal(503, "model_not_ready", text, "server_error", retry_after_s=RETRY_S)
    return unknown_model(model, pinned)


def unknown_model(model: str, pinned: str | None) -> Refusal:
    """There is no such model, or not for this key: the two are not to be told apart."""
    where = "here" if pinned is None else f"in {pinned}"
    text = f"{model} is not served {where}; GET /v1/models lists what is."
    return Refusal(404, "model_not_found", text, param="model")
