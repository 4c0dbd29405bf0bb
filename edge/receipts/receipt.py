"""One request's receipt, as it is kept, and as hops say theirs inside a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from wire.timing import Form

if TYPE_CHECKING:
    from collections.abc import Mapping

FORM: Final = Form("edge", ("read", "route", "first_byte", "stream"))
RECEIPT: Final = (
    b': nearfield {"hop": '  # begins a line of a stream; an event is JSON, and holds no bare newline
)


class Receipt(NamedTuple):
    """One request. `head` are lines of its answer's head, `told` the receipts that came in a stream."""

    at: float  # seconds since 1970, when it was over
    number: str
    model: str
    tenant: str
    key: str
    path: str
    region: str | None
    status: int
    is_streamed: bool
    total_ms: float
    phases: Mapping[str, float]
    head: bytes = b""
    told: bytes = b""
    replayed: tuple[str, ...] = ()
    code: str = ""


def told_in(block: bytes) -> bytes:
    """The receipts in whole events."""
    if block.startswith(RECEIPT):
        return block
    at = block.find(b"\n" + RECEIPT)
    return block[at:] if at >= 0 else b""
