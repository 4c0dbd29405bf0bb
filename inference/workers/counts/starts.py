"""What a node counts of its starts, for /metrics and its log: each phase, each source of bytes, each first token."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from inference.workers.counts.answers import AnswerFigures
from wire.refused.refusals import Refusals

if TYPE_CHECKING:
    from inference.workers.board import LoadFailure
    from inference.workers.loading import LoadReport
    from wire.figures.metrics import Metrics

log = logging.getLogger("nearfield.node")


class StartFigures:
    """Starts of workers and first tokens of requests, by start state."""

    def __init__(self, metrics: Metrics) -> None:
        self.answers = AnswerFigures(metrics)
        self._seconds = metrics.histogram(
            "nearfield_node_start_seconds", "From the order to load a model until it can answer.", "start"
        )
        self._phases = metrics.histogram(
            "nearfield_node_start_phase_seconds",
            "What starts were spent on; phases exclude each other.",
            "start",
            "phase",
        )
        self._bytes = metrics.counter(
            "nearfield_node_start_bytes_total", "Weights of starts, by where they were found.", "source"
        )
        self._shared = metrics.counter(
            "nearfield_node_start_shared_bytes_total", "Weights that another revision of the host had too."
        )
        self._failures = metrics.counter("nearfield_node_start_failures_total", "Starts that failed.", "code")
        self._falls = metrics.counter(
            "nearfield_node_engine_falls_total", "External engines that ended by themselves.", "engine"
        )
        refusals = metrics.counter(
            "nearfield_node_refusals_total", "Requests refused here.", "code", "status"
        )
        self.refusals = Refusals(log, refusals)
        self._first = metrics.histogram(
            "nearfield_node_first_token_seconds", "From a request's head until its first token.", "start"
        )
        self._gone = metrics.counter(
            "nearfield_node_clients_gone_total",
            "Requests whose client left before their answer's end.",
            "stream",
        )

    def started(self, model: str, report: LoadReport, lack: LoadFailure | None) -> None:
        """A worker can answer; or could, and has ended for a `lack` of weights that did not come."""
        self._seconds.observe(report.total_ms / 1000, report.start)
        for name, ms in report.phases.items():
            self._phases.observe(ms / 1000, report.start, name)
        for source, num_bytes in report.bytes.items():
            self._bytes.add(num_bytes, source)
        self._shared.add(report.shared_bytes)
        log.info("start of %s: %s", model, report.words())
        if lack is not None:
            self.failed(model, lack.code, lack.message)

    def failed(self, model: str, code: str, message: str) -> None:
        """A worker could not be started."""
        self._failures.add(1, code)
        log.warning("load of %s failed: %s: %s", model, code, message)

    def fell(self, engine: str) -> None:
        """An external engine ended, or did not start, with nobody having asked it to end."""
        self._falls.add(1, engine)

    def client_gone(self, *, stream: bool) -> None:
        """A client left before it had its answer, and the work for it has ended."""
        self._gone.add(1, "yes" if stream else "no")

    def first_token(self, start: str, ms: float) -> None:
        """A request has its first token."""
        self._first.observe(ms / 1000, start)
