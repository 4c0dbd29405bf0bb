"""What is told of one recorded request at the edge: its own span, its phases, and a span for each region asked."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple, Self

from wire.figures.gen_ai import OPERATIONS, PROVIDER
from wire.refused.refusal import Refusal
from wire.trace.context import new_span_id
from wire.trace.span import Kind

if TYPE_CHECKING:
    from types import TracebackType

    from edge.relay.journey import Journey
    from wire.http.heads import Headers
    from wire.listener.exchange import Exchange
    from wire.trace.tracer import Trace


class Try(NamedTuple):
    """A region that was asked."""

    region: str
    span_id: str
    begin_ns: int


class Told:
    """Open while the request is here; `journey` is set once it has one."""

    def __init__(self, trace: Trace, exchange: Exchange, request_id: str) -> None:
        self._trace, self._exchange, self._request_id = trace, exchange, request_id
        self.journey: Journey | None = None
        self._tries: list[Try] = []

    def asks(self, region: str) -> Headers:
        """A region is asked: what it is told of the trace."""
        made = Try(region, new_span_id(), time.time_ns())
        self._tries.append(made)
        return self._trace.context._replace(span_id=made.span_id).headers()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._trace.records:
            return
        self._trace.error = self._error(fault)
        self._trace.values |= self._values()
        self._trace.end(
            f"POST {self._exchange.head.path}", None if self.journey is None else self.journey.phases
        )
        self._add_tries()
        self._trace.tell()

    def _error(self, fault: BaseException | None) -> str:
        if isinstance(fault, Refusal):
            return fault.code
        if fault is not None:
            return "client_gone" if self._exchange.disconnected else type(fault).__name__
        status = self._exchange.status or 0
        return str(status) if status >= 400 else ""

    def _values(self) -> dict[str, str | int | float | bool]:
        exchange, journey = self._exchange, self.journey
        values: dict[str, str | int | float | bool] = {
            "http.request.method": exchange.head.method,
            "http.route": exchange.head.path,
            "nearfield.request_id": self._request_id,
        }
        values |= {"http.response.status_code": exchange.status} if exchange.status else {}
        if journey is None:
            return values
        values |= {"gen_ai.request.model": journey.ask.model, "gen_ai.provider.name": PROVIDER}
        operation = OPERATIONS.get(exchange.head.path)
        return values | ({"gen_ai.operation.name": operation} if operation else {})

    def _add_tries(self) -> None:
        """Each lasted until the next one, or the end; why it was none is what set the request back."""
        setbacks = [] if self.journey is None else self.journey.setbacks
        ends = [each.begin_ns for each in self._tries[1:]] + [time.time_ns()]
        for number, (each, end_ns) in enumerate(zip(self._tries, ends, strict=False)):
            span = self._trace.span(
                f"ask {each.region}", each.begin_ns, end_ns, span_id=each.span_id, kind=Kind.CLIENT
            )
            span.values["nearfield.region"] = each.region
            span.error = setbacks[number].cause if number < len(setbacks) else ""
