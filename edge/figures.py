"""What an edge counts of what went wrong: only that, so an answer that goes well costs nothing here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wire.metrics import one

if TYPE_CHECKING:
    from edge.admission.room import Room
    from edge.relay.setback import Setback
    from wire.metrics import Metrics


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
        metrics.total(
            "nearfield_edge_shed_requests_total", "Refused for want of room.", lambda: one(room.num_refused)
        )

    def set_back(self, back: Setback) -> None:
        """A region did not answer."""
        self._setbacks.add(1, back.region, back.cause)

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
