"""What the anycast gate of one POP shows: whether it is announced, and what that rests on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge.anycast.gate import Standing
from wire.figures.metrics import one

if TYPE_CHECKING:
    from edge.anycast.run import Gate, Watch
    from wire.figures.metrics import Metrics, Reading


def add_gate_figures(metrics: Metrics, gate: Gate, watch: Watch) -> None:
    """Of one gate, read when they are asked for."""

    def standing() -> Reading:
        return (((each.value,), float(gate.state.standing is each)) for each in Standing)

    def regions() -> Reading:
        return watch.regions()

    metrics.gauge("nearfield_anycast_standing", "1 of what the POP is now.", standing, "standing")
    metrics.gauge(
        "nearfield_anycast_listener_up", "1 if the edge answered last.", lambda: one(watch.listener)
    )
    metrics.gauge("nearfield_anycast_region_up", "1 if it answered last.", regions, "region")
    metrics.total("nearfield_anycast_changes_total", "Of the standing.", lambda: one(gate.num_changes))
    metrics.total(
        "nearfield_anycast_speaker_failures_total",
        "Times that BGP was not told.",
        lambda: one(gate.num_failures),
    )
