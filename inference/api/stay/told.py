"""What is told of one recorded request at a node: its own span, and one for each phase of its receipt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wire.figures.gen_ai import PROVIDER

if TYPE_CHECKING:
    from inference.api.stay.visit import Visit
    from inference.usage.entry import Counts
    from wire.trace.tracer import Trace


def tell(visit: Visit, trace: Trace, operation: str, model: str, counts: Counts | None, error: str) -> None:
    """It is over, well if `error` is empty."""
    trace.error = error
    trace.values |= {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": model,
        "nearfield.request_id": visit.request_id,
        "nearfield.start": visit.start,
        "nearfield.revision": visit.revision_id,
    }
    if counts is not None:
        trace.values |= {
            "gen_ai.usage.input_tokens": counts.prompt,
            "gen_ai.usage.output_tokens": counts.completion,
            "nearfield.usage.cached_tokens": counts.cached,
        }
    trace.end(f"{operation} {model}".strip(), visit.phases)
    trace.tell()
