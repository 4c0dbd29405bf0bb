"""What a region asks of its nodes. Answers are bounded; waits have deadlines."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Literal

from regions.map.headers import REVISION, TENANT
from regions.nodes.answers import (
    Inspected,
    LoadLine,
    NodeError,
    NodeView,
    WorkerView,
    load_line,
    refusal,
    strange,
    unreachable,
)
from regions.nodes.probes import failed_probe, is_late, late_probe, probe_of
from weights_cache.model.revision import LeftOut, ModelFacts, RevisionError
from wire.address import split_address
from wire.dial import DialError, Pool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from regions.nodes.probes import Said
    from weights_cache.model.revision import Revision
    from wire.dial import Answer
    from wire.http.http1 import Headers

__all__ = ["Inspected", "LoadLine", "Node", "NodeError", "NodeView", "WorkerView"]

MAX_STATUS_BYTES = 1 << 20  # hundreds of workers and cache entries
MAX_LINE_BYTES = 64 << 10  # one line of progress, or one error
STATUS_S = 3.0  # a node that cannot say this much in time is not one to send requests to
INSPECT_S = 60.0  # a forked child builds the architecture on the meta device
PROBE_S = 60.0  # one token of a model that is already resident, on a busy CPU
UNLOAD_S = 30.0
TENANT_COLD, TENANT_WARM = "nearfield", "nearfield-warm"  # who probes
MAX_TOLD = 1_024  # revisions
UNKNOWN_REVISION = "unknown_revision"  # a node's word for an id that it has no revision of
BETWEEN_LINES_S = 120.0  # a load that says nothing for so long has hung
JSON_HEADERS = (("content-type", "application/json"),)


class Node:
    """One node of the region, by address. Raises NodeError and nothing else."""

    def __init__(self, address: str, hop_token: str) -> None:
        self.address = address
        self._pool = Pool(*split_address(address))
        self._told: OrderedDict[str, None] = OrderedDict()
        """Revisions that were sent whole; the node may have forgotten one, or be another process by now."""
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
            raise NodeError(strange(self.address, f"a status without {error}"), passing=True) from error

    async def inspect(
        self,
        bucket: str,
        prefix: str,
        files: Sequence[Mapping[str, Any]],
        tensors: Sequence[Mapping[str, Any]],
        quantize: str | None = None,
    ) -> Inspected:
        """What transformers says; `files` have path, size, etag, `tensors` name, dtype, shape."""
        question = {"bucket": bucket, "prefix": prefix, "files": list(files), "tensors": list(tensors)}
        if quantize is not None:
            question["quantize"] = quantize
        answer = await self._ask("POST", "/inspect", question, head_s=INSPECT_S)
        try:
            left_out = tuple(LeftOut(each["path"], each["reason"]) for each in answer["left_out"])
            return Inspected(ModelFacts.from_value(answer["facts"]), left_out)
        except (KeyError, TypeError, RevisionError) as error:
            raise NodeError(strange(self.address, f"an inspection without {error}"), passing=True) from error

    async def load(
        self,
        revision: Revision,
        reason: Literal["request", "probe", "prewarm"],
        idle_timeout_s: float,
        min_replicas: int,
    ) -> AsyncIterator[LoadLine]:
        """Makes a revision resident; yields progress, last a line with phase `ready`."""
        terms = {"reason": reason, "idle_timeout_s": idle_timeout_s, "min_replicas": min_replicas}
        answer = await self._loading(revision, terms)
        ready = False
        async for line in self._lines(answer):
            ready = ready or line.phase == "ready"
            yield line
        if not ready:
            raise NodeError(unreachable(self.address, "it closed the load before it was ready"), passing=True)

    async def _loading(self, revision: Revision, terms: Mapping[str, object]) -> Answer:
        """The answer to a load, by the revision's id alone where the node was told what that is."""
        if revision.id in self._told:
            self._told.move_to_end(revision.id)
            try:
                question = {"revision": revision.id, **terms}
                return await self._request("POST", "/load", question, head_s=BETWEEN_LINES_S)
            except NodeError as error:
                if error.fault.code != UNKNOWN_REVISION:
                    raise
        question = {"revision": revision.as_value(), **terms}
        answer = await self._request("POST", "/load", question, head_s=BETWEEN_LINES_S)
        self._told[revision.id] = None
        while len(self._told) > MAX_TOLD:
            self._told.popitem(last=False)
        return answer

    async def unload(self, revision: str, to: Literal["host", "region"]) -> int:
        """Stops the worker of a revision; returns the bytes freed once its slot is free."""
        answer = await self._ask("POST", "/unload", {"revision": revision, "to": to}, head_s=UNLOAD_S)
        freed = answer.get("freed_bytes", 0)
        return freed if isinstance(freed, int) else 0

    async def probe(self, revision: Revision, tenant: str = TENANT_COLD) -> Said:
        """One greedy token, embedding or score through the node's own API: what it said, if it is well-formed.

        Two tenants share no kept prefix, so the second is computed as the first was.
        """
        probe, question = probe_of(revision)
        extra = ((REVISION, revision.id), (TENANT, tenant))
        try:
            answer = await self._ask("POST", probe.path, question, head_s=PROBE_S, extra=extra)
        except NodeError as error:
            if not is_late(error):
                raise
            raise NodeError(late_probe(PROBE_S), passing=True) from error
        if not probe.is_sound(answer):
            raise NodeError(failed_probe(probe.wanted), passing=False)
        return probe.said(answer)

    async def _ask(
        self, method: str, path: str, question: object, *, head_s: float, extra: Headers = ()
    ) -> dict[str, Any]:
        answer = await self._request(method, path, question, head_s=head_s, extra=extra)
        try:
            value = json.loads(await answer.read(MAX_STATUS_BYTES))
        except DialError as error:
            raise NodeError(unreachable(self.address, str(error)), passing=True) from error
        except ValueError as error:
            raise NodeError(strange(self.address, "bytes that are no JSON"), passing=True) from error
        if not isinstance(value, dict):
            raise NodeError(strange(self.address, "JSON that is no object"), passing=True)
        return value

    async def _request(
        self, method: str, path: str, question: object, *, head_s: float, extra: Headers = ()
    ) -> Answer:
        body = None if question is None else json.dumps(question).encode()
        try:
            answer = await self._pool.request(method, path, (*self._headers, *extra), body, head_s=head_s)
            if answer.head.status != 200:
                raise refusal(self.address, answer.head.status, await answer.read(MAX_LINE_BYTES))
        except DialError as error:
            raise NodeError(unreachable(self.address, str(error)), passing=True) from error
        return answer

    async def _lines(self, answer: Answer) -> AsyncIterator[LoadLine]:
        rest = b""
        try:
            async for chunk in answer.chunks(between_s=BETWEEN_LINES_S):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield load_line(self.address, line)
                if len(rest) > MAX_LINE_BYTES:
                    raise NodeError(strange(self.address, "a line without an end"), passing=True)
        except DialError as error:
            raise NodeError(unreachable(self.address, str(error)), passing=True) from error
        finally:
            await answer.release()
