"""Spans to a collector: OTLP over HTTP as JSON, from a bounded queue, in batches, beside the requests.

A collector that is slow, gone or refuses costs spans, which are counted, and nothing else. OpenTelemetry's own SDK was
left out on purpose: it works with threads and context variables on every call, where a hop of ours lays out its spans
once, from a stopwatch that it has anyway; what is left of it is this file.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from wire.dial import DialError, Pool
from wire.trace.span import attributes
from wire.trace.tracer import Tracer

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

    from wire.figures.metrics import Counter, Metrics
    from wire.http.heads import Headers
    from wire.trace.span import Span

MAX_QUEUED: Final = 4096  # spans; some 4 MB
MAX_BATCH: Final = 256  # spans in one request: some 100 KB, and a millisecond or two to write
GATHER_S: Final = 0.5  # a first span waits so long for others
TRY_S: Final = 5.0
PAUSES_S: Final = (1.0, 4.0)  # before the second and third try of a batch; then it is given up
FAREWELL_S: Final = 2.0  # for what is left when the role ends
MAX_ANSWER_BYTES: Final = 64 << 10
PASSING: Final = frozenset({429, 502, 503, 504})  # as OTLP says: the same batch may be taken later
SCOPE: Final = {"name": "nearfield"}

log = logging.getLogger("nearfield.trace")


@dataclass(frozen=True, slots=True)
class Tracing:
    """Where spans go, and which: `headers` open the collector, `share` and `per_s` are a Tracer's."""

    host: str
    port: int
    path: str = "/v1/traces"
    tls: ssl.SSLContext | None = None
    headers: Headers = ()
    share: float = 0.0
    per_s: float = 100.0


class Exporter:
    """`tell` takes spans and never waits; `run` sends them until `close`."""

    def __init__(self, tracing: Tracing, resource: dict[str, str], counter: Counter) -> None:
        """`counter` has the label outcome."""
        self._pool = Pool(tracing.host, tracing.port, tls=tracing.tls, server_name=tracing.host, max_idle=1)
        self._path, self._headers = tracing.path, (("content-type", "application/json"), *tracing.headers)
        self._resource = {"attributes": attributes(resource)}
        self._counter = counter
        self._queue: deque[Span] = deque()
        self._some, self._closing = asyncio.Event(), asyncio.Event()
        self._is_failing = False

    @property
    def num_queued(self) -> int:
        """Spans that wait."""
        return len(self._queue)

    def tell(self, spans: list[Span]) -> None:
        """A request's spans, all or none of them."""
        if len(self._queue) + len(spans) > MAX_QUEUED:
            self._counter.add(len(spans), "dropped")
            return
        self._queue.extend(spans)
        self._some.set()

    async def run(self) -> None:
        """Send what comes, batch by batch; once it is to end, what is left."""
        while self._queue or not self._closing.is_set():
            await self._some.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(GATHER_S):
                    await self._closing.wait()
            while self._queue:
                await self._send(self._taken())
            self._some.clear()

    async def close(self, running: asyncio.Task[None]) -> None:
        """Let `running`, which is `run`, send what is left, though not for long; what it cannot is counted."""
        self._closing.set()
        self._some.set()
        await asyncio.wait({running}, timeout=FAREWELL_S)
        running.cancel()
        await asyncio.wait({running})
        if self._queue:
            self._counter.add(len(self._queue), "dropped")
        await self._pool.close()

    def _taken(self) -> list[Span]:
        return [self._queue.popleft() for _ in range(min(MAX_BATCH, len(self._queue)))]

    async def _send(self, spans: list[Span]) -> None:
        """To the collector, or nowhere."""
        scoped = [{"scope": SCOPE, "spans": [span.as_value() for span in spans]}]
        body = json.dumps({"resourceSpans": [{"resource": self._resource, "scopeSpans": scoped}]}).encode()
        try:
            said = await self._tried(body)
        except asyncio.CancelledError:
            self._counter.add(len(spans), "dropped")
            raise
        if isinstance(said, int):
            self._counter.add(len(spans) - said, "sent")
            if said:
                self._counter.add(said, "rejected")
        else:
            self._counter.add(len(spans), "failed")
            if not self._is_failing:  # once, until it goes well again
                log.warning("spans are lost: the collector %s", said)
        self._is_failing = not isinstance(said, int)

    async def _tried(self, body: bytes) -> int | str:
        """As `_post`, as often as it may help."""
        for pause_s in PAUSES_S:
            said = await self._post(body)
            if isinstance(said, int) or not said.endswith("later"):
                return said
            await asyncio.sleep(pause_s)
        return await self._post(body)

    async def _post(self, body: bytes) -> int | str:
        """How many spans it refused; or what is wrong, with `later` at its end where another try may help."""
        try:
            async with asyncio.timeout(TRY_S):
                answer = await self._pool.request("POST", self._path, self._headers, body, head_s=TRY_S)
                async with answer:
                    said = await answer.read(MAX_ANSWER_BYTES)
        except (DialError, TimeoutError) as error:
            return f"does not answer ({error}); later"
        if answer.head.status == 200:
            return _rejected(said)
        return f"answers {answer.head.status}" + ("; later" if answer.head.status in PASSING else "")


def _rejected(body: bytes) -> int:
    """Of a partial success: how many spans were not taken."""
    try:
        value: Any = json.loads(body or b"{}")
        return int(value.get("partialSuccess", {}).get("rejectedSpans", 0))
    except (ValueError, TypeError, AttributeError):
        return 0


def add_trace_figures(metrics: Metrics) -> Counter:
    """What became of spans, for the roles that can record any."""
    return metrics.counter(
        "nearfield_trace_spans_total",
        "Spans, by what became of them: sent, rejected, failed, dropped.",
        "outcome",
    )


@asynccontextmanager
async def traced(
    tracing: Tracing | None, role: str, name: str, metrics: Metrics
) -> AsyncIterator[Tracer | None]:
    """A role's tracer while this is open; None where nothing is to be recorded."""
    counter = add_trace_figures(metrics)
    if tracing is None:
        yield None
        return
    resource = {
        "service.namespace": "nearfield",
        "service.name": f"nearfield-{role}",
        "service.instance.id": name,
    }
    exporter = Exporter(tracing, resource, counter)
    sending = asyncio.create_task(exporter.run())
    try:
        yield Tracer(exporter.tell, tracing.share, tracing.per_s)
    finally:
        await exporter.close(sending)
