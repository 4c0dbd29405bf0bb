"""What a region asks of its nodes. Answers are bounded; waits have deadlines."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from regions.map import REVISION, TENANT
from regions.nodes.answers import (
    Inspected,
    LoadLine,
    NodeError,
    NodeView,
    WorkerView,
    failed_probe,
    has_score,
    has_token,
    has_vector,
    load_line,
    refusal,
    strange,
    unreachable,
)
from weights_cache.revision import LeftOut, ModelFacts, RevisionError
from wire.dial import DialError, Pool, split_address

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from regions.map import Kind
    from weights_cache.revision import Revision
    from wire.dial import Answer
    from wire.http1 import Headers

__all__ = ["Inspected", "LoadLine", "Node", "NodeError", "NodeView", "WorkerView"]

MAX_STATUS_BYTES = 1 << 20  # hundreds of workers and cache entries
MAX_LINE_BYTES = 64 << 10  # one line of progress, or one error
STATUS_S = 3.0  # a node that cannot say this much in time is not one to send requests to
INSPECT_S = 60.0  # a forked child builds the architecture on the meta device
PROBE_S = 60.0  # one token of a model that is already resident, on a busy CPU
UNLOAD_S = 30.0
BETWEEN_LINES_S = 120.0  # a load that says nothing for so long has hung
PROBE_TEXT = "hello world " * 32  # 64 words: long enough that the first prefill figure means something


class Probe(NamedTuple):
    """What a model of one kind is asked before it goes live, and what its answer must hold."""

    path: str
    question: Callable[[str], dict[str, Any]]
    is_sound: Callable[[Mapping[str, Any]], bool]
    wanted: str


PROBES: Final[dict[Kind, Probe]] = {
    "generate": Probe(
        "/v1/completions",
        lambda text: {"prompt": text, "max_tokens": 1, "temperature": 0},
        has_token,
        "token",
    ),
    "embed": Probe("/v1/embeddings", lambda text: {"input": text}, has_vector, "finite vector"),
    "rerank": Probe(
        "/v1/rerank",
        lambda text: {"query": "hi", "documents": [text], "max_tokens_per_doc": len(text)},
        has_score,
        "finite score",
    ),
}
JSON_HEADERS = (("content-type", "application/json"),)


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
            raise NodeError(unreachable(self.address, "it closed the load before it was ready"), passing=True)

    async def unload(self, revision: str, to: Literal["host", "region"]) -> int:
        """Stops the worker of a revision; returns the bytes freed once its slot is free."""
        answer = await self._ask("POST", "/unload", {"revision": revision, "to": to}, head_s=UNLOAD_S)
        freed = answer.get("freed_bytes", 0)
        return freed if isinstance(freed, int) else 0

    async def probe(self, revision: Revision) -> None:
        """One greedy token, embedding or score through the node's own API; returns if it is well-formed."""
        text = PROBE_TEXT[: max(5, revision.facts.max_len // 2)]  # a character is a token at the most
        probe = PROBES[revision.facts.kind]
        question = {"model": revision.model, **probe.question(text)}
        extra = ((REVISION, revision.id), (TENANT, "nearfield"))
        answer = await self._ask("POST", probe.path, question, head_s=PROBE_S, extra=extra)
        if not probe.is_sound(answer):
            raise NodeError(failed_probe(probe.wanted), passing=False)

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
