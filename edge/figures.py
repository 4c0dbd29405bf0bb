"""What an edge counts: what went wrong, and how long requests were here; the rest is the regions' to count."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from wire.figures.metrics import one
from wire.refused.refusals import Refusals

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edge.admission.room import Room
    from edge.reach.region import Reach
    from edge.relay.setback import Setback
    from wire.figures.metrics import Metrics
    from wire.listener.endings import Endings

log = logging.getLogger("nearfield.edge")


class EdgeFigures:
    """The figures of one edge."""

    def __init__(self, metrics: Metrics, room: Room) -> None:
        self.metrics = metrics
        counter, gauge = metrics.counter, metrics.gauge
        self._setbacks = counter(
            "nearfield_edge_setbacks_total", "Regions that did not answer a request.", "region", "cause"
        )
        self._replays = counter("nearfield_edge_replays_total", "Requests sent to another region.", "model")
        self._spent = counter(
            "nearfield_edge_replay_budget_refusals_total", "Requests that were not replayed.", "model"
        )
        self._broken = counter("nearfield_edge_broken_streams_total", "Ended by an error event.", "region")
        self._resumed = counter(
            "nearfield_edge_resumed_streams_total",
            "That a region broke off, and another went on with.",
            "region",
        )
        gauge("nearfield_edge_held_requests", "Under way.", lambda: one(room.num_requests))
        gauge(
            "nearfield_edge_held_bytes", "Of bodies and of answers read whole.", lambda: one(room.num_bytes)
        )
        refusals = counter("nearfield_edge_refusals_total", "Requests refused here.", "code", "status")
        self.refusals = Refusals(log, refusals)
        stays = metrics.histogram(
            "nearfield_edge_request_seconds", "Of inference, from admission to the answer's end."
        )
        room.on_left, stays.on_look = stays.observe_all, room.settle
        metrics.total(
            "nearfield_edge_shed_requests_total", "Refused for want of room.", lambda: one(room.num_refused)
        )

    def follow_listeners(self, endings: Mapping[str, Endings]) -> None:
        """What became of connections before their time, by listener."""
        self.metrics.total(
            "nearfield_edge_closed_connections_total",
            "Of clients, that ended before a request, within one, or with one unanswered.",
            lambda: [
                ((name, cause.value), num)
                for name, each in endings.items()
                for cause, num in each.num.items()
            ],
            "listener",
            "cause",
        )

    def follow(self, reaches: Mapping[str, Reach]) -> None:
        """What is known of each region, read when it is asked for."""
        self.metrics.total(
            "nearfield_edge_hedged_probes_total",
            "Second tries beside a slow one.",
            lambda: [((name,), reach.hedge.num_hedged) for name, reach in reaches.items()],
            "region",
        )
        self.metrics.gauge(
            "nearfield_edge_region_up",
            "1 while requests may go there.",
            lambda: [((name,), float(not reach.down)) for name, reach in reaches.items()],
            "region",
        )
        self.metrics.gauge(
            "nearfield_edge_region_rtt_seconds",
            "The way there and back, as probes measure it.",
            lambda: [((name,), each.rtt_ms / 1000) for name, each in reaches.items() if each.rtt_ms],
            "region",
        )

    def set_back(self, back: Setback) -> None:
        """A region did not answer."""
        self._setbacks.add(1, back.region, back.cause)

    def gave_up(self, request_id: str, model: str, setbacks: Sequence[Setback]) -> None:
        """No region answered a request: where it went, and what became of it there."""
        tries = " ".join(f"{each.region}({each.cause})" for each in setbacks)
        log.warning("gave up after %s", tries or "none", extra={"request_id": request_id, "model": model})

    def replayed(self, model: str) -> None:
        """Another region is asked."""
        self._replays.add(1, model)

    def budget_spent(self, model: str) -> None:
        """None is asked, because too many requests were replayed."""
        self._spent.add(1, model)

    def broken(self, region: str) -> None:
        """A committed stream ended in an error event."""
        self._broken.add(1, region)

    def resumed(self, region: str) -> None:
        """A committed stream of `region` is gone on with in another."""
        self._resumed.add(1, region)
