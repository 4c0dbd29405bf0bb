"""What a node says, as values: its status, its progress, its refusals. Parsing only, no I/O."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from regions.map.region import ModelFault, Progress

if TYPE_CHECKING:
    from collections.abc import Mapping

    from weights_cache.model.revision import LeftOut, ModelFacts

BUSY_CODES = frozenset(  # what a node says of its own moment, or of its store's, not of the model
    {
        "overloaded",
        "not_resident",
        "memory_short",
        "model_not_ready",
        "draining",
        "weights_unreadable",
        "changed",
    }
)
CRASH_CODES = frozenset(  # may be a kill, of the engine or of who forks it: worth another try, not any number
    {"engine_failed", "fork_failed", "load_timeout"}
)
RESIDENT = "resident"  # the state of a worker that answers
PASSING_STATUSES = frozenset({401, 403, 429, 503})  # a node of another configuration, or a busy one


class NodeError(Exception):
    """A node did not do what was asked. `passing` says that the same request may succeed later."""

    def __init__(self, fault: ModelFault, *, passing: bool) -> None:
        super().__init__(fault.message)
        self.fault = fault
        self.passing = passing


@dataclass(frozen=True, slots=True)
class WorkerView:
    """One worker as its node reports it: sequences running and waiting, slots, seconds idle, ms measured.

    `landing` is how far its weights are, if requests that are on it may still wait for them.
    """

    model: str
    revision: str
    state: str
    running: int
    waiting: int
    slots: int
    idle_s: float = field(compare=False)  # it only ticks over: a view that differs in nothing else is no news
    prefill_ms_per_token: float
    step_ms: float
    landing: Progress | None = field(default=None, compare=False)

    def holds(self, revision: str) -> bool:
        """Whether it can answer for that revision now."""
        return self.state == RESIDENT and self.revision == revision


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node's `GET /status`. Bandwidths in bytes/s, 0 while unmeasured."""

    address: str
    budget_bytes: int = 0
    used_bytes: int = 0
    workers: tuple[WorkerView, ...] = ()
    cached: frozenset[str] = frozenset()  # ids of the revisions in host memory
    store_bytes_per_s: float = 0.0
    host_bytes_per_s: float = 0.0
    attach_s: float = 0.0

    @classmethod
    def from_value(cls, address: str, value: Mapping[str, Any]) -> NodeView:
        """The view in a parsed status. Raises KeyError, TypeError or ValueError when it is none."""
        return cls(
            address=address,
            budget_bytes=int(value["memory"]["budget_bytes"]),
            used_bytes=int(value["memory"]["used_bytes"]),
            workers=tuple(_worker(each) for each in value["workers"]),
            cached=frozenset(str(each["revision"]) for each in value["cache"]),
            store_bytes_per_s=float(value["store_bytes_per_s"] or 0.0),
            host_bytes_per_s=float(value["host_bytes_per_s"] or 0.0),
            attach_s=float(value["attach_s"] or 0.0),
        )


@dataclass(frozen=True, slots=True)
class LoadLine:
    """One line of a load: `phase` fork, fetch, attach, warm; then `ready` with its `start` state.

    `bytes` are what the load read, by source; `phases` milliseconds. Both are empty before `ready`.
    """

    phase: str
    percent: float = 0.0
    eta_s: float | None = None
    start: str = ""
    bytes: Mapping[str, int] | None = None
    phases: Mapping[str, float] | None = None
    total_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Inspected:
    """What transformers says of a push: its facts, and what of it the model does not use."""

    facts: ModelFacts
    left_out: tuple[LeftOut, ...]


def _worker(value: Mapping[str, Any]) -> WorkerView:
    return WorkerView(
        model=str(value["model"]),
        revision=str(value["revision"]),
        state=str(value["state"]),
        running=int(value["running"]),
        waiting=int(value["waiting"]),
        slots=int(value["slots"]),
        idle_s=float(value["idle_s"] or 0.0),
        prefill_ms_per_token=float(value["prefill_ms_per_token"] or 0.0),
        step_ms=float(value["step_ms"] or 0.0),
        landing=_landing(value.get("landing")),
    )


def _landing(value: Mapping[str, Any] | None) -> Progress | None:
    if value is None:
        return None
    eta_s = value["eta_s"]
    return Progress("fetch", float(value["percent"]), None if eta_s is None else float(eta_s))


def load_line(address: str, line: bytes) -> LoadLine:
    """One line of a load. Raises NodeError: what the node said, or that it said nothing sensible."""
    try:
        value = json.loads(line)
        phase = str(value["phase"])
        if phase == "failed":
            raise _said(address, value)
        return LoadLine(
            phase=phase,
            percent=float(value.get("percent") or 0.0),
            eta_s=value.get("eta_s"),
            start=str(value.get("start") or ""),
            bytes=value.get("bytes"),
            phases=value.get("phases"),
            total_ms=float(value.get("total_ms") or 0.0),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise NodeError(strange(address, "a line of progress that is none"), passing=True) from error


def _said(address: str, value: Mapping[str, Any]) -> NodeError:
    """The node's own `{"code","message","next"}` as an error."""
    code = str(value.get("code") or "load_failed")
    fault = ModelFault(
        code, str(value.get("message") or f"node {address} failed"), str(value.get("next") or "")
    )
    return NodeError(fault, passing=code in BUSY_CODES | CRASH_CODES)


def refusal(address: str, status: int, body: bytes) -> NodeError:
    """An answer other than 200: `{"refused":{..}}` of an inspection, or an OpenAI-shaped error."""
    try:
        value = json.loads(body)
        said = value.get("refused") or value.get("error") or {}
    except (ValueError, AttributeError):
        said = {}
    if not isinstance(said, dict) or "message" not in said:
        return NodeError(strange(address, f"status {status}"), passing=True)
    error = _said(address, said)
    return NodeError(error.fault, passing=error.passing or status >= 500 or status in PASSING_STATUSES)


def unreachable(address: str, cause: str) -> ModelFault:
    """The node gave no answer, or not all of it."""
    return ModelFault(
        "node_unreachable", f"node {address}: {cause}", "it is tried again by itself; is the node up?"
    )


def strange(address: str, what: str) -> ModelFault:
    """The node answered something that is no answer."""
    return ModelFault("node_failed", f"node {address} answered {what}", "look at the node's log")
