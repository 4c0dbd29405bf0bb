"""Which trace a request is part of, as W3C Trace Context says it in two headers. Pure.

https://www.w3.org/TR/trace-context/: a `traceparent` that does not hold to the form, or of which there are two, is
none, and its `tracestate` goes with it. The sampled flag is honoured, and the one that says ids are random kept.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from wire.http.heads import Headers, RequestHead

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
SAMPLED: Final = 1
RANDOM: Final = 2
MAX_STATE_CHARS: Final = 512  # what everybody must pass on; a longer one need not be
MAX_MEMBERS: Final = 32
_PARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_MEMBER: Final = re.compile(
    r"[a-z0-9][a-z0-9_*/@-]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)


class Context(NamedTuple):
    """Where a request stands in its trace: the span that is the parent of whatever comes of it."""

    trace_id: str
    span_id: str
    flags: int
    state: str = ""

    @property
    def is_sampled(self) -> bool:
        """Whether whoever began it records it."""
        return bool(self.flags & SAMPLED)

    def headers(self) -> Headers:
        """What the next hop is told."""
        parent = (TRACEPARENT, f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}")
        return (parent, (TRACESTATE, self.state)) if self.state else (parent,)

    def at(self, span_id: str, *, sampled: bool) -> Context:
        """The same trace, at a span of ours."""
        return self._replace(span_id=span_id, flags=self.flags & RANDOM | (SAMPLED if sampled else 0))


def context_of(head: RequestHead) -> Context | None:
    """What a request's head says; None where it says nothing that can be believed."""
    said = head.get(TRACEPARENT)
    if said is None or [name for name, _ in head.headers].count(TRACEPARENT) > 1:
        return None
    return read(said, ",".join(value for name, value in head.headers if name == TRACESTATE))


def passed_on(head: RequestHead) -> Headers:
    """The two headers as they came, for the next hop of a request that is not recorded here."""
    if head.get(TRACEPARENT) is None:
        return ()
    found = context_of(head)
    return () if found is None else found.headers()


def read(parent: str, state: str = "") -> Context | None:
    """The context in the two headers' values; None for a parent that holds not to the form."""
    found = _PARENT.fullmatch(parent)
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not (int(trace_id, 16) and int(span_id, 16)):
        return None
    return Context(trace_id, span_id, int(flags, 16) & (SAMPLED | RANDOM), _state(state))


def begun(*, sampled: bool) -> Context:
    """A new trace, whose first span is ours."""
    return Context(os.urandom(16).hex(), new_span_id(), RANDOM | (SAMPLED if sampled else 0))


def new_span_id() -> str:
    """Eight random bytes; all zero would be none, and comes once in 2**64."""
    return os.urandom(8).hex()


def _state(said: str) -> str:
    """What other tracers have to say to themselves, unless it is too much or has not the form."""
    members = [each.strip(" \t") for each in said.split(",") if each.strip(" \t")]
    if len(said) > MAX_STATE_CHARS or len(members) > MAX_MEMBERS:
        return ""
    return ",".join(members) if all(map(_MEMBER.fullmatch, members)) else ""
