"""One inference request on its way through the gateway: its facts, its clock, and the one answer it gets."""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from regions.gateway.hold import comment
from regions.map.headers import (
    ATTEMPT,
    DEADLINE_MS,
    KEY,
    REGION,
    REMOTE_BYTES,
    REPLICA,
    REQUEST_ID,
    RESUME,
    REVISION,
    START,
    TENANT,
    WAIT_S,
    WAITED,
    WEIGHT,
)
from regions.map.region import Tier
from wire.dialect import error_event
from wire.http.heads import without_hop_headers
from wire.refused.refusal import Refusal
from wire.timing import parse_server_timing
from wire.trace.context import passed_on

if TYPE_CHECKING:
    from collections.abc import Callable

    from regions.ask import Ask
    from regions.deployments import Deployment
    from regions.gateway.wake import Woken
    from regions.map.region import Progress
    from weights_cache.model.revision import Revision
    from wire.http.http1 import Headers, RequestHead
    from wire.listener.exchange import Exchange
    from wire.timing import Phases
    from wire.trace.tracer import Trace

DEFAULT_DEADLINE_S: Final = 600.0  # as the openai client's own
MAX_DEADLINE_S: Final = 3600.0  # a day-long answer is a job, not a request
DEFAULT_WAIT_S: Final = (
    60.0  # a client that sees no comments is not held longer than most proxies would allow
)
SSE: Final = "text/event-stream"
TO_FIRST_TOKEN: Final = tuple(
    f"node.{phase}" for phase in ("read", "template", "tokenize", "queue", "weights", "prefill")
)
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?")
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
OWN: Final = frozenset(
    {"server", "content-length", "server-timing", REQUEST_ID, REGION, START, REMOTE_BYTES, REVISION, REPLICA}
)


@dataclass(slots=True, eq=False)
class Trip:
    """What one request is about; `held` and `found` change when it has to wait.

    `deadline` and `hold_until` are loop time. `found` is the tier that the request found its model in: resident,
    unless no worker that holds it was there to answer. `replica` names the node that was asked last.
    """

    exchange: Exchange
    ask: Ask
    body: bytes
    deployment: Deployment
    revision: Revision
    region: str
    phases: Phases
    deadline: float
    hold_until: float
    request_id: str
    found: Tier = Tier.RESIDENT
    held: Woken | None = None
    later_s: float = 0.0  # from the end of its wake to the first token
    replica: str = ""
    landed: Callable[[], Progress | None] = lambda: None  # the node's word of its weights
    spoke: bool = True  # something was sent to the client since the last beat, or it came since
    trace: Trace | None = None  # what is recorded of it

    @property
    def remote_bytes(self) -> int:
        """Bytes that crossed from another region so that this request could be answered."""
        return self.held.remote_bytes if self.held else 0

    def left_s(self) -> float:
        """Seconds until the deadline, 0 when it is past."""
        return max(0.0, self.deadline - asyncio.get_running_loop().time())

    def patience_s(self, at_most_s: float) -> float:
        """Seconds to wait for the next bytes. Raises Refusal 504 once the deadline is past."""
        left_s = self.left_s()
        if not left_s:
            text = "The deadline passed before the answer was complete."
            raise Refusal(504, "deadline_exceeded", text, "server_error")
        return min(at_most_s, left_s)

    def request_headers(self, ours: Headers) -> Headers:
        """A new head for the node: `ours`, and nothing of the client's but what is named here.

        A request that was held says what it found, so that the node's figures name the same start state.
        """
        head = self.exchange.head
        start = ((START, str(self.found)),) if self.held else ()
        resume = head.get(RESUME)
        return (
            *ours,
            *said_of(head),
            (REVISION, self.revision.id),
            *start,
            *(((RESUME, resume),) if resume is not None else ()),
            *(passed_on(head) if self.trace is None else self.trace.headers()),
            (REQUEST_ID, self.request_id),
            (DEADLINE_MS, str(math.ceil(self.left_s() * 1000))),
        )

    def answer_headers(self, upstream: Headers = ()) -> Headers:
        """The node's headers with ours in place of those of the same name."""
        said = dict(upstream).get(START, str(self.found))
        ours = (
            (REQUEST_ID, self.request_id),
            (REGION, self.region),
            (REVISION, self.revision.id),
            (START, str(self.found) if self.held else said),
            (REMOTE_BYTES, str(self.remote_bytes)),
            *(((REPLICA, self.replica),) if self.replica else ()),
        )
        return (*without_hop_headers(upstream, OWN), *ours)

    async def say(self, progress: Progress) -> None:
        """Tells a client that streams how far its model is; the first comment opens the stream."""
        if not self.exchange.status:
            sse = (("content-type", SSE), ("cache-control", "no-cache"))
            await self.exchange.start(200, (*sse, *self.answer_headers()))
        self.spoke = True
        await self.exchange.write(comment(progress))

    def landing(self) -> Progress | None:
        """How far the weights are that a request on its worker still waits for; None if it waits for none."""
        progress = self.landed()
        if progress is None or self.held is None or progress.eta_s is not None:
            return progress
        return replace(progress, eta_s=self.held.left_s())

    def pulse(self, sign: bytes) -> None:
        """A sign of life to the client, which says how far its weights are while it waits for them."""
        progress = self.landing()
        self.exchange.pulse(sign if progress is None else comment(progress))

    def receipt(self) -> bytes:
        """The gateway's last line of a stream."""
        extra: dict[str, object] = {"region": self.region, "remote_bytes": self.remote_bytes}
        if self.held:
            extra |= {"start": str(self.found), "start_phases": self.held.start_phases()}
            extra |= {"start_total_ms": round(self.held.took_s * 1e3, 3)}
            extra |= {"bytes": dict(self.held.load.bytes or {})}
            extra |= {"eta": self.held.score(self.later_s).as_value()}
        return self.phases.comment(extra, last="finish")

    def timing(self, upstream: Headers) -> str:
        """The whole `server-timing`: the node's, ours, and of a wake the pull from home inside it and its estimate."""
        said = [value for name, value in upstream if name == "server-timing"]
        woken: list[str] = []
        if self.held and self.remote_bytes:
            woken.append(f"gateway.start.pull;dur={self.held.pull_ms:.3f}")
        if self.held:
            eta = self.held.score(self.later_s)
            woken.append(f"eta.expected;dur={eta.expected_s * 1e3:.3f}, eta.took;dur={eta.took_s * 1e3:.3f}")
        return ", ".join([*said, self.phases.header(), *woken])

    def note_first(self, upstream: Headers) -> None:
        """The node's answer is here, a stream's with its first token; a whole one says when that was."""
        if self.held is None:
            return
        if self.ask.stream:
            self.later_s = max(0.0, time.perf_counter() - self.held.ended_s)
        else:
            said = parse_server_timing(",".join(value for name, value in upstream if name == "server-timing"))
            self.later_s = sum(said.get(name, 0.0) for name in TO_FIRST_TOKEN) / 1e3

    async def fail(self, refusal: Refusal) -> None:
        """Ends a stream that was begun with one error event; raises the refusal where none was."""
        if not self.exchange.status:
            raise refusal
        said = error_event(self.exchange.head.path, refusal.body())
        await self.exchange.finish(said + self.receipt())


def said_of(head: RequestHead) -> Headers:
    """What a node is told of a client's head: the same for every request of that head."""
    weight = head.get(WEIGHT)
    return (
        ("accept", head.get("accept") or "*/*"),
        (TENANT, head.get(TENANT) or "default"),
        *[(name, said) for name in (KEY, ATTEMPT, WAITED) if (said := head.get(name)) is not None],
        *(((WEIGHT, weight),) if weight is not None else ()),
    )


def request_id(head: RequestHead) -> str:
    """The edge's request id, or a new one where it is missing or odd."""
    said = head.get(REQUEST_ID) or ""
    return said if _REQUEST_ID.fullmatch(said) else f"req_{uuid4().hex}"


def deadline_s(head: RequestHead) -> float:
    """Seconds that the caller gives. Raises Refusal 400 for what is no number."""
    return min(MAX_DEADLINE_S, _number(head, DEADLINE_MS, DEFAULT_DEADLINE_S * 1000) / 1000)


def hold_s(head: RequestHead, *, stream: bool) -> float:
    """Seconds it may be held: what the caller says, else DEFAULT_WAIT_S, a stream up to its deadline."""
    return _number(head, WAIT_S, MAX_DEADLINE_S if stream else DEFAULT_WAIT_S)


def _number(head: RequestHead, name: str, default: float) -> float:
    text = head.get(name)
    if text is None:
        return default
    if _NUMBER.fullmatch(text) is None:
        raise Refusal(400, "bad_request", f"The header {name} must be a plain number.")
    return float(text)


def said_refusal(status: int, body: bytes) -> Refusal:
    """A node's error answer as a refusal: to be told in a stream that was begun."""
    try:
        error = json.loads(body)["error"]
        return Refusal(
            status, str(error["code"]), str(error["message"]), str(error["type"]), error.get("param")
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        text = f"The node answered {status} without saying why; try again."
        return Refusal(502, "upstream_failed", text, "server_error")
