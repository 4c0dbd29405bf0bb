"""Which requests are recorded, and what is told of them once they are over: nothing is done while they run.

A request that comes with a trace is recorded if its sampled flag says so; of the others, where traces begin, one in so
many is drawn. The draw is made ahead, as the number of requests until the next one, so that most cost a subtraction.
What is recorded is bounded by the second as well: whoever sets the flag on all requests gets no more than that.
"""

from __future__ import annotations

import math
import random
import time
from typing import TYPE_CHECKING, Final

from wire.trace.context import begun, context_of, new_span_id
from wire.trace.span import Kind, Span, laid

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from wire.http.heads import Headers, RequestHead
    from wire.timing import Phases
    from wire.trace.context import Context
    from wire.trace.span import Value

BURST_S: Final = 2.0
NS: Final = 1_000_000_000


class Trace:
    """One request's part of a trace at one hop. `context` is what the next hop is told, but for its own span.

    `records` False: it came too fast to be recorded, and the next hops are told so.
    """

    __slots__ = ("_begin_ns", "_parent", "_tell", "context", "error", "records", "spans", "values")

    def __init__(
        self, parent: Context | None, started: float, tell: Callable[[list[Span]], None], *, records: bool
    ) -> None:
        """`started` in perf_counter seconds."""
        self._parent, self._tell, self.records = parent, tell, records
        self._begin_ns = self.wall_ns(started)
        first = begun(sampled=records)
        self.context = first if parent is None else parent.at(first.span_id, sampled=records)
        self.values: dict[str, Value] = {}
        self.spans: list[Span] = []
        self.error = ""

    @staticmethod
    def wall_ns(at: float) -> int:
        """A moment of perf_counter as ns since 1970."""
        return time.time_ns() - round((time.perf_counter() - at) * NS)

    def headers(self) -> Headers:
        """What the next hop is told, where it is not a try of its own."""
        return self.context.headers()

    def span(
        self,
        name: str,
        begin_ns: int,
        end_ns: int,
        parent_id: str = "",
        span_id: str = "",
        kind: Kind = Kind.INTERNAL,
    ) -> Span:
        """A span inside, below `parent_id` or this hop's own."""
        made = Span(
            self.context.trace_id,
            span_id or new_span_id(),
            parent_id or self.context.span_id,
            name,
            kind,
            begin_ns,
            end_ns,
        )
        self.spans.append(made)
        return made

    def lay(
        self, phases: Mapping[str, float], begin_ns: int, hop: str, parent_id: str = ""
    ) -> dict[str, Span]:
        """Phases in ms as spans `hop.phase`, by the phase's name."""
        return {
            name: self.span(f"{hop}.{name}", begin, end, parent_id)
            for name, begin, end in laid(phases, begin_ns)
        }

    def end(self, name: str, phases: Phases | None) -> dict[str, Span]:
        """This hop is done with it: its own span, and one for each phase of its receipt, by the phase's name."""
        if not self.records:
            return {}
        parent = self._parent.span_id if self._parent is not None else ""
        own = Span(
            self.context.trace_id,
            self.context.span_id,
            parent,
            name,
            Kind.SERVER,
            self._begin_ns,
            time.time_ns(),
            self.values,
            self.error,
            self.context.state,
        )
        found = {} if phases is None else self.lay(phases.items, self._begin_ns, phases.hop)
        own.end_ns = max([own.end_ns, *(each.end_ns for each in found.values())])
        self.spans.insert(0, own)
        return found

    def tell(self) -> None:
        """Hand over what was recorded; once, at the end."""
        if self.records:
            self._tell(self.spans)


class Tracer:
    """What one role records: `share` of the requests that bring no trace, and `per_s` requests a second at most."""

    def __init__(
        self,
        tell: Callable[[list[Span]], None],
        share: float,
        per_s: float,
        now: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._tell, self._share, self._per_s, self._now, self._draw = tell, share, per_s, now, draw
        self._left, self._at = per_s * BURST_S, now()
        self._num_until_next = self._drawn()

    def skips(self) -> bool:
        """Count a request without a trace that need not be recorded; False: it is one that is, for `begin`.

        One that was drawn beyond the bound of a second is like one that was not: it goes the short way too.
        """
        if self._num_until_next:
            self._num_until_next -= 1
            return True
        if self._has_room():
            return False
        self._num_until_next = self._drawn()
        return True

    def begin(self, head: RequestHead, started: float) -> Trace | None:
        """(Where requests come in) the recording of one, if it is to be recorded."""
        parent = context_of(head)
        if parent is None:
            if self.skips():
                return None
            self._num_until_next = self._drawn()
        elif not parent.is_sampled:
            return None
        return Trace(parent, started, self._tell, records=self._may())

    def below(self, parent: Context | None, started: float) -> Trace | None:
        """(Behind that) the recording of one that is recorded already."""
        if parent is None or not parent.is_sampled:
            return None
        return Trace(parent, started, self._tell, records=self._may())

    def _drawn(self) -> float:
        """Requests until the next one: as often none as `share` says."""
        if self._share <= 0:
            return math.inf
        if self._share >= 1:
            return 0
        return math.floor(math.log(1 - self._draw()) / math.log(1 - self._share))

    def _may(self) -> bool:
        if not self._has_room():
            return False
        self._left -= 1.0
        return True

    def _has_room(self) -> bool:
        now = self._now()
        self._left = min(self._per_s * BURST_S, self._left + (now - self._at) * self._per_s)
        self._at = now
        return self._left >= 1.0
