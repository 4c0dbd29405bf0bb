"""What is told of one recorded request at a gateway: its own span, its phases, and the start that it waited for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from wire.figures.gen_ai import OPERATIONS, PROVIDER

if TYPE_CHECKING:
    from regions.gateway.trip import Trip
    from regions.gateway.wake import Woken
    from wire.trace.span import Span
    from wire.trace.tracer import Trace

SHARED_NS: Final = 1_000_000  # before the wait: clocks are read one after the other


def tell(trip: Trip, trace: Trace, error: str) -> None:
    """It is over, well if `error` is empty."""
    path, status = trip.exchange.head.path, trip.exchange.status
    trace.error = error or (str(status) if status and status >= 400 else "")
    trace.values |= {
        "http.request.method": trip.exchange.head.method,
        "http.route": path,
        "nearfield.request_id": trip.request_id,
        "nearfield.region": trip.region,
        "nearfield.replica": trip.replica,
        "nearfield.start": str(trip.found) if trip.held else "warm",
        "nearfield.remote_bytes": trip.remote_bytes,
        "nearfield.revision": trip.revision.id,
        "gen_ai.request.model": trip.ask.model,
        "gen_ai.provider.name": PROVIDER,
    }
    if path in OPERATIONS:
        trace.values["gen_ai.operation.name"] = OPERATIONS[path]
    found = trace.end(f"POST {path}", trip.phases)
    if trip.held is not None and "wake" in found:
        _add_start(trace, trip, trip.held, found["wake"])
    trace.tell()


def _add_start(trace: Trace, trip: Trip, woken: Woken, wake: Span) -> None:
    """The start itself; it began before the wait for it, if another request had it begun."""
    end_ns = trace.wall_ns(woken.ended_s)
    begin_ns = end_ns - round(woken.took_s * 1e9)
    start = trace.span("start", begin_ns, end_ns, wake.span_id)
    start.values |= {
        "nearfield.start": woken.load.start or str(trip.found),
        "nearfield.replica": woken.address,
        "nearfield.expected_ms": woken.expected.seconds * 1e3,
        "nearfield.shared": begin_ns < wake.begin_ns - SHARED_NS,
        **{f"nearfield.bytes.{source}": num for source, num in (woken.load.bytes or {}).items()},
        "nearfield.bytes.remote": woken.remote_bytes,
    }
    trace.lay(woken.start_phases(), begin_ns, "start", start.span_id)
