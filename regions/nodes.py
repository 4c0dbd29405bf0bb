"""What a region asks of its nodes, and what they answer. Answers are bounded; waits have deadlines."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from regions.map import REVISION, TENANT, ModelFault
from weights_cache.revision import LeftOut, ModelFacts, RevisionError
from wire.dial import DialError, Pool, split_address

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from weights_cache.revision import Revision
    from wire.dial import Answer
    from wire.http1 import Headers

MAX_STATUS_BYTES = 1 << 20  # hundreds of workers and cache entries
MAX_LINE_BYTES = 64 << 10  # one line of progress, or one error
STATUS_S = 3.0  # a node that cannot say this much in time is not one to send requests to
INSPECT_S = 60.0  # a forked child builds the architecture on the meta device
PROBE_S = 60.0  # one token of a model that is already resident, on a busy CPU
UNLOAD_S = 30.0
BETWEEN_LINES_S = 120.0  # a load that says nothing for so long has hung
PROBE_TEXT = "Hello"  # any text has a first token

JSON_HEADERS = (("content-type", "application/json"),)
BUSY_CODES = frozenset(
    {"overloaded", "not_resident", "memory_short", "model_not_ready", "draining"}
)  # pass by themselves


class NodeError(Exception):
    """A node did not do what was asked. `passing` says that the same request may succeed later."""

    def __init__(self, fault: ModelFault, *, passing: bool) -> None:
        super().__init__(fault.message)
        self.fault = fault
        self.passing = passing


@dataclass(frozen=True, slots=True)
class WorkerView:
    """One worker as its node reports it: sequences running and waiting, slots, seconds idle, ms measured."""

    model: str
    revision: str
    state: str
    running: int
    waiting: int
    slots: int
    idle_s: float
    prefill_ms_per_token: float
    step_ms: float

    def holds(self, revision: str) -> bool:
        """Whether it can answer for that revision now."""
        return self.state == "resident" and self.revision == revision


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


class Node:
    """One node of the region, by address. Raises NodeError and nothing else."""

    def __init__(self, address: str, hop_token: str) -> None:
        self.address = address
        self._pool = Pool(*split_address(address))
        self._headers: Headers = (("host", address), ("authorization", f"Bearer {hop_token}"), *JSON_HEADERS)

    async def close(self) -> None:
        """Closes idle connections."""
        await self._pool.close()

    async def status(self) -> NodeView:
        """What the node holds and measures."""
        answer = await self._ask("GET", "/status", None, head_s=STATUS_S)
        try:
            return NodeView.from_value(self.address, answer)
        except (KeyError, TypeError, ValueError) as error:
            raise NodeError(_strange(self.address, f"a status without {error}"), passing=True) from error

    async def inspect(
        self,
        bucket: str,
        prefix: str,
        files: Sequence[Mapping[str, Any]],
        tensors: Sequence[Mapping[str, Any]],
    ) -> Inspected:
        """What transformers says; `files` have path, size, etag, `tensors` name, dtype, shape."""
        question = {"bucket": bucket, "prefix": prefix, "files": list(files), "tensors": list(tensors)}
        answer = await self._ask("POST", "/inspect", question, head_s=INSPECT_S)
        try:
            left_out = tuple(LeftOut(each["path"], each["reason"]) for each in answer["left_out"])
            return Inspected(ModelFacts.from_value(answer["facts"]), left_out)
        except (KeyError, TypeError, RevisionError) as error:
            raise NodeError(_strange(self.address, f"an inspection without {error}"), passing=True) from error

    async def load(
        self,
        revision: Revision,
        reason: Literal["request", "probe", "prewarm"],
        idle_timeout_s: float,
        min_replicas: int,
    ) -> AsyncIterator[LoadLine]:
        """Makes a revision resident; yields progress, last a line with phase `ready`."""
        question = {
            "revision": revision.as_value(),
            "reason": reason,
            "idle_timeout_s": idle_timeout_s,
            "min_replicas": min_replicas,
        }
        answer = await self._request("POST", "/load", question, head_s=BETWEEN_LINES_S)
        ready = False
        async for line in self._lines(answer):
            ready = ready or line.phase == "ready"
            yield line
        if not ready:
            raise NodeError(
                _unreachable(self.address, "it closed the load before it was ready"), passing=True
            )

    async def unload(self, revision: str, to: Literal["host", "region"]) -> int:
        """Stops the worker of a revision; returns the bytes freed once its slot is free."""
        answer = await self._ask("POST", "/unload", {"revision": revision, "to": to}, head_s=UNLOAD_S)
        freed = answer.get("freed_bytes", 0)
        return freed if isinstance(freed, int) else 0

    async def probe(self, revision: Revision) -> None:
        """One greedy token, or one embedding, through the node's own API; returns if it is well-formed."""
        generates = revision.facts.kind == "generate"
        question: dict[str, Any] = {"model": revision.model, "input": PROBE_TEXT}
        if generates:
            question = {"model": revision.model, "prompt": PROBE_TEXT, "max_tokens": 1, "temperature": 0}
        path = "/v1/completions" if generates else "/v1/embeddings"
        extra = ((REVISION, revision.id), (TENANT, "nearfield"))
        answer = await self._ask("POST", path, question, head_s=PROBE_S, extra=extra)
        if not (_has_token(answer) if generates else _has_vector(answer)):
            raise NodeError(_failed_probe(generates), passing=False)

    async def _ask(
        self, method: str, path: str, question: object, *, head_s: float, extra: Headers = ()
    ) -> dict[str, Any]:
        answer = await self._request(method, path, question, head_s=head_s, extra=extra)
        try:
            value = json.loads(await answer.read(MAX_STATUS_BYTES))
        except DialError as error:
            raise NodeError(_unreachable(self.address, str(error)), passing=True) from error
        except ValueError as error:
            raise NodeError(_strange(self.address, "bytes that are no JSON"), passing=False) from error
        if not isinstance(value, dict):
            raise NodeError(_strange(self.address, "JSON that is no object"), passing=False)
        return value

    async def _request(
        self, method: str, path: str, question: object, *, head_s: float, extra: Headers = ()
    ) -> Answer:
        body = None if question is None else json.dumps(question).encode()
        try:
            answer = await self._pool.request(method, path, (*self._headers, *extra), body, head_s=head_s)
            if answer.head.status != 200:
                raise _refusal(self.address, answer.head.status, await answer.read(MAX_LINE_BYTES))
        except DialError as error:
            raise NodeError(_unreachable(self.address, str(error)), passing=True) from error
        return answer

    async def _lines(self, answer: Answer) -> AsyncIterator[LoadLine]:
        rest = b""
        try:
            async for chunk in answer.chunks(between_s=BETWEEN_LINES_S):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield _load_line(self.address, line)
                if len(rest) > MAX_LINE_BYTES:
                    raise NodeError(_strange(self.address, "a line without an end"), passing=False)
        except DialError as error:
            raise NodeError(_unreachable(self.address, str(error)), passing=True) from error
        finally:
            await answer.release()


def with_next(fault: ModelFault, next_step: str) -> ModelFault:
    """The fault with another next step."""
    return replace(fault, next=next_step)


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
    )


def _load_line(address: str, line: bytes) -> LoadLine:
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
        raise NodeError(_strange(address, "a line of progress that is none"), passing=False) from error


def _said(address: str, value: Mapping[str, Any]) -> NodeError:
    """The node's own `{"code","message","next"}` as an error."""
    code = str(value.get("code") or "load_failed")
    fault = ModelFault(
        code, str(value.get("message") or f"node {address} failed"), str(value.get("next") or "")
    )
    return NodeError(fault, passing=code in BUSY_CODES)


def _refusal(address: str, status: int, body: bytes) -> NodeError:
    """An answer other than 200: `{"refused":{..}}` of an inspection, or an OpenAI-shaped error."""
    try:
        value = json.loads(body)
        said = value.get("refused") or value.get("error") or {}
    except (ValueError, AttributeError):
        said = {}
    if not isinstance(said, dict) or "message" not in said:
        return NodeError(_strange(address, f"status {status}"), passing=status >= 500)
    error = _said(address, said)
    return NodeError(error.fault, passing=error.passing or status in {429, 503})


def _unreachable(address: str, cause: str) -> ModelFault:
    return ModelFault(
        "node_unreachable", f"node {address}: {cause}", "it is tried again by itself; is the node up?"
    )


def _strange(address: str, what: str) -> ModelFault:
    return ModelFault("node_failed", f"node {address} answered {what}", "look at the node's log")


def _failed_probe(generates: bool) -> ModelFault:
    what = "no token" if generates else "no finite vector"
    return ModelFault(
        "probe_failed", f"the model loaded, but the probe gave {what}", "try it locally with transformers"
    )


def _has_token(answer: Mapping[str, Any]) -> bool:
    usage = answer.get("usage")
    return bool(answer.get("choices")) and isinstance(usage, dict) and usage.get("completion_tokens", 0) >= 1


def _has_vector(answer: Mapping[str, Any]) -> bool:
    data = answer.get("data")
    vector = (
        data[0].get("embedding") if isinstance(data, list) and data and isinstance(data[0], dict) else None
    )
    return isinstance(vector, list) and len(vector) > 0 and all(_finite(each) for each in vector)


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and abs(value) < float("inf")
