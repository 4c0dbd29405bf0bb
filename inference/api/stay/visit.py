"""One request's stay on a worker: what it found, where its time went, and what its answer says about both."""

from __future__ import annotations

import re
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from inference.engine.orders.asked import MAX_WEIGHT
from inference.workers.loading import SOURCES
from wire.timing import Phases

if TYPE_CHECKING:
    from collections.abc import Callable

    from inference.api.answer.resume import Resume
    from inference.workers.entry.resident import Resident
    from inference.workers.loading import LoadReport
    from inference.workers.worker import Worker
    from wire.trace.context import Context
    from wire.trace.tracer import Trace, Tracer

REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}\Z")
KEY_ID = re.compile(r"[0-9a-f]{12}\Z")
COLD = frozenset({"origin", "region", "host"})
"""Start states that the gateway may report for a request which waited for a load."""

Headers = dict[str, str]
Told = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Visit:
    """Made when the request's head is in; `arrive` when its worker is known.

    Attributes:
        request_id: The edge's id, or one of ours.
        tenant: Whose request it is, as the edge says; only their own prompts are kept for them.
        weight: Its share of a busy engine, as the edge says.
        key: The public id of the key that it came with, and `attempt` which of the edge's tries it is, from 0.
        has_waited: Whether it had to wait for a place of its key's at the edge, or for its tenant's turn at the engine.
        start: The start state this request found.
        report: The load that it waited for or was the first to use; None when the worker was warm.
    """

    request_id: str
    asked_start: str | None
    tenant: str = ""
    phases: Phases = field(default_factory=lambda: Phases("node"))
    weight: int = 1
    has_waited: bool = False
    start: str = "warm"
    key: str = ""
    attempt: int = 0
    report: LoadReport | None = None
    revision_id: str = ""
    first_ms: float | None = None
    is_deterministic: bool = False
    resume: Resume | None = None
    """How the stream is to be told so that another node could go on with it, or which one is gone on with here."""
    found: Callable[[], LoadReport] | None = None
    """The report as it stands: of a start that did not wait for its bytes they are counted as they come."""
    trace: Trace | None = None
    """What is recorded of it, and `passes` what an engine behind this node is told of its trace."""
    passes: Told = ()
    error: str = ""
    """The code of what ended a stream that had begun."""

    @classmethod
    def of(
        cls,
        request_id: str | None,
        asked_start: str | None,
        tenant: str | None = None,
        key: str | None = None,
        attempt: str | None = None,
    ) -> Visit:
        """From the request's headers: `x-request-id`, `x-nearfield-start`, `-tenant`, `-key` and `-attempt`."""
        known = request_id is not None and REQUEST_ID.match(request_id)
        made = request_id if known and request_id else f"req_{secrets.token_hex(16)}"
        visit = cls(made, asked_start if asked_start in COLD else None, tenant or "")
        visit.key = key if key and KEY_ID.match(key) else ""
        visit.attempt = int(attempt) if attempt and attempt.isascii() and attempt.isdigit() else 0
        return visit

    def arrive(self, worker: Worker, load_reason: str) -> Resident:
        """Enter the worker; its `leave` is the caller's to call.

        Raises:
            Refusal: 409 `not_resident`.
        """
        model = worker.enter()
        is_first, worker.num_served = worker.num_served == 0, worker.num_served + 1
        self.revision_id = worker.revision.id
        self.is_deterministic = bool(worker.revision.spec.deterministic)
        if self.asked_start is not None:
            self._find(worker, self.asked_start)
        elif is_first and load_reason == "request":
            self._find(worker, worker.report.start)
        elif is_first:
            self.start = "resident"
        return model

    def _find(self, worker: Worker, start: str) -> None:
        self.start, self.found, self.report = start, worker.found, worker.found()

    def note_first(self, prefill_ms: float, wait_ms: float = 0.0) -> None:
        """The first token is here: what the engine did not spend on the prompt was waiting for its turn.

        Of `prefill_ms` it spent `wait_ms` on weights that had not landed yet.
        """
        self.phases.mark("queue")
        spent_ms = min(prefill_ms, self.phases.items["queue"])
        waited_ms = min(wait_ms, spent_ms)
        self.phases.add("queue", -spent_ms)
        self.phases.add("prefill", spent_ms - waited_ms)
        if waited_ms:
            self.phases.add("weights", waited_ms)
        self.first_ms = self.phases.total_ms()

    def follow(self, tracer: Tracer | None, parent: Context | None) -> None:
        """It is part of a trace: recorded here if whoever began that does, and told on in any case."""
        if parent is not None:
            self.trace = None if tracer is None else tracer.below(parent, self.phases.started)
            self.passes = (parent if self.trace is None else self.trace.context).headers()

    def headers(self) -> Headers:
        """What every answer says, streamed or not."""
        remote_bytes = self.report.bytes.get("remote", 0) if self.report else 0
        return {
            "x-request-id": self.request_id,
            "x-nearfield-start": self.start,
            "x-nearfield-remote-bytes": str(remote_bytes),
            "x-nearfield-revision": self.revision_id,
            **({"x-nearfield-deterministic": "true"} if self.is_deterministic else {}),
        }

    def counted(self, prompt_tokens: int, answer_tokens: int = 0) -> Headers:
        """What a whole answer says beside `headers`: its time and its tokens."""
        tokens = f"{prompt_tokens} {answer_tokens}"
        return {**self.headers(), "server-timing": self.server_timing(), "x-nearfield-tokens": tokens}

    def server_timing(self) -> str:
        """The node's part of `Server-Timing`; `node.start.*` lie before this request and are in no total."""
        start = self.report.phases if self.report else {}
        return ", ".join(
            [self.phases.header(), *(f"node.start.{name};dur={ms:.3f}" for name, ms in start.items())]
        )

    def weigh(self, said: str | None) -> None:
        """What the header `x-nearfield-weight` says, if that is a weight."""
        if said is not None and said.isascii() and said.isdigit() and 0 < int(said[:9]) <= MAX_WEIGHT:
            self.weight = int(said)

    def receipt(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> bytes:
        """The node's last line of a stream."""
        report = self.found() if self.found else None
        extra: dict[str, Any] = {
            "start": self.start,
            "remote_bytes": report.bytes.get("remote", 0) if report else 0,
            "bytes": dict(report.bytes) if report else dict.fromkeys(SOURCES, 0),
            "start_phases": {name: round(ms, 3) for name, ms in report.phases.items()} if report else {},
            "copied_bytes": report.copied_bytes if report else 0,
            "start_total_ms": round(report.total_ms, 3) if report else 0.0,
            "shared_bytes": report.shared_bytes if report else 0,
            **(report.device() if report else {}),
            "cached": cached_tokens,
            "deterministic": self.is_deterministic,
            "revision": self.revision_id,
            "request_id": self.request_id,
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "time_to_first_token_ms": None if self.first_ms is None else round(self.first_ms, 3),
        }
        return self.phases.comment(extra, last="finish")


def now_unix() -> int:
    """Seconds since 1970, for `created`."""
    return int(time.time())
