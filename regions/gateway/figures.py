"""What a gateway counts: wakes and what they were made of, how good its estimates are, and when first bytes came."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from regions.gateway.estimate import Accuracy
from wire.figures.gen_ai import OPERATIONS, GenAIFigures
from wire.figures.metrics import one
from wire.refused.refusals import Refusals

if TYPE_CHECKING:
    from collections.abc import Mapping

    from regions.deployments import Deployments
    from regions.gateway.estimate import Score
    from regions.gateway.hold import Seats
    from regions.gateway.pass_on import PassOn
    from regions.gateway.relay import Relay
    from regions.gateway.wake import Wake, Woken
    from wire.figures.metrics import Metrics

SHARES: Final = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0)  # of what a start took

log = logging.getLogger("nearfield.regions")


class GatewayFigures:
    """The figures of one gateway's starts."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics, self.accuracy = metrics, Accuracy()
        self._gen_ai = GenAIFigures(metrics)
        refusals = metrics.counter(
            "nearfield_gateway_refusals_total",
            "Requests refused here, or ended by an error.",
            "code",
            "status",
        )
        self.refusals = Refusals(log, refusals)
        self._wakes = metrics.counter(
            "nearfield_gateway_wakes_total", "Wakes that ended.", "reason", "outcome"
        )
        self._seconds = metrics.histogram(
            "nearfield_gateway_wake_seconds", "From an order to wake a model until it is resident.", "start"
        )
        self._phases = metrics.histogram(
            "nearfield_gateway_wake_phase_seconds", "What wakes were spent on.", "start", "phase"
        )
        self._bytes = metrics.counter(
            "nearfield_gateway_wake_bytes_total", "Weights of wakes, by where they were found.", "source"
        )
        self._expected = metrics.histogram(
            "nearfield_gateway_wake_expected_seconds",
            "What first tokens of those who waited were expected to take.",
            "start",
        )
        self._errors = metrics.histogram(
            "nearfield_gateway_wake_eta_error_ratio",
            "How far estimates were off, as a share of what the first token took.",
            "start",
            bounds=SHARES,
        )
        self._first = metrics.histogram(
            "nearfield_gateway_first_byte_seconds", "From a request's head to its answer's.", "start"
        )

    def follow(
        self,
        seats: Seats,
        relay: Relay,
        running: Mapping[str, Wake],
        deployments: Deployments,
        pass_on: PassOn,
    ) -> None:
        """Gauges of what a gateway has under way; they are read when they are asked for."""
        gauge, accuracy = self.metrics.gauge, self.accuracy
        gauge("nearfield_gateway_held_requests", "That wait for a wake.", lambda: one(seats.num_held))
        gauge("nearfield_gateway_wakes_running", "Under way.", lambda: one(len(running)))
        gauge("nearfield_gateway_inflight_requests", "Sent to nodes.", lambda: one(relay.inflight.total()))
        lost = "Other regions that this gateway does not reach."
        gauge(
            "nearfield_gateway_lost_regions",
            lost,
            lambda: one(sum(way.down for way in pass_on.ways.values())),
        )
        gauge("nearfield_gateway_nodes", "That answer.", lambda: one(len(deployments.nodes)))
        gauge(
            "nearfield_gateway_eta_error_ratio", "Of the last wakes' estimates.", lambda: one(accuracy.error)
        )

    def woken(self, wake: Wake, woken: Woken) -> None:
        """A model is resident."""
        start = str(wake.expected.tier)
        self._wakes.add(1, wake.reason, "resident")
        self._seconds.observe(woken.took_s, start)
        for name, ms in woken.start_phases().items():
            self._phases.observe(ms / 1000, start, name)
        for source, num_bytes in {**(woken.load.bytes or {}), "remote": woken.remote_bytes}.items():
            self._bytes.add(num_bytes, source)
        log.info("woke %s: %s", wake.revision.model, _words(wake, woken))

    def scored(self, model: str, start: str, score: Score) -> None:
        """Who waited for a start has a first token: how good was the estimate?"""
        self._expected.observe(score.expected_s, start)
        self._errors.observe(score.error, start)
        self.accuracy.observe(score)
        took_ms, expected_ms = score.took_s * 1e3, score.expected_s * 1e3
        told = (model, start, took_ms, expected_ms, 100 * score.error)
        log.info("first token of %s from %s after %.1f ms, expected %.1f ms, off by %.0f%%", *told)

    def failed(self, wake: Wake, why: str) -> None:
        """A model could not be woken."""
        self._wakes.add(1, wake.reason, "failed")
        log.warning("no wake of %s (%s, %s): %s", wake.revision.model, wake.reason, wake.expected.tier, why)

    def first_byte(self, start: str, seconds: float) -> None:
        """A node has begun to answer a request."""
        self._first.observe(seconds, start)

    def streamed(self, path: str, model: str, seconds: float) -> None:
        """A stream has its first token, its wait for a start included."""
        if path in OPERATIONS:
            self._gen_ai.first_token(OPERATIONS[path], model, seconds)

    def ended(self, path: str, model: str, seconds: float, error: str) -> None:
        """A request has ended, well if `error` is empty."""
        if path in OPERATIONS:
            self._gen_ai.ended(OPERATIONS[path], model, seconds, error)


def _words(wake: Wake, woken: Woken) -> str:
    phases = " ".join(f"{name}={ms:.1f}" for name, ms in woken.start_phases().items())
    return (
        f"{wake.reason} found it at {wake.expected.tier}, {woken.took_s * 1e3:.1f} ms at {woken.address} ({phases}), "
        f"first token expected after {wake.expected.seconds * 1e3:.1f} ms, bytes from home {woken.remote_bytes}"
    )
