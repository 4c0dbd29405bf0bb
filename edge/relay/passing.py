"""One request on an edge's lane: sent in one write, its answer passed on by one call, its books kept afterwards.

It passes an answer that is 200 and whole, and a stream of whole events whose first is no error, chunk by chunk as it
came, to its end. Events with ids, errors, parts of events, an end that is none and everything else are the relay's,
which goes on from there.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from edge.receipts.receipt import FORM, RECEIPT, told_in
from edge.relay.journey import OWN, members_of
from edge.relay.sse import Ending, error_code, first_event
from regions.health import PROVEN, Outcome
from regions.map.headers import REGION, REQUEST_ID, ROUTE
from wire.dialect import THEIR_REQUEST_ID
from wire.lanes import usual
from wire.lanes.carry import Carry
from wire.lanes.lane import LATE_S
from wire.timing import Phases

if TYPE_CHECKING:
    from edge.choice.route import Decision
    from edge.relay.lane import EdgeLane
    from edge.relay.patience import Patience
    from edge.relay.standing import Standing
    from regions.ask import Ask
    from wire.lanes.lane import LaneLine
    from wire.lanes.shape import Grounds, Shape
    from wire.listener.exchange import Exchange
    from wire.upstreams.upstream import Upstream

_OPENS, _CLOSES = b"{}"
_TIMING: Final = FORM.timing
_THEIRS: Final = f"{THEIR_REQUEST_ID}: %b\r\n".encode()
_OURS: Final = f"%b%b%b{REQUEST_ID}: %b\r\n{REGION}: %b\r\n{ROUTE}: %b\r\n".encode()


class Passing(Carry):
    """`heard`, `entered` and `deadline` are loop time; the other times are of perf_counter."""

    dropped = usual.dropping(OWN)
    lane: EdgeLane
    __slots__ = (
        "_ending",
        "_said",
        "_told",
        "ask",
        "body",
        "entered",
        "is_sent",
        "lane",
        "passed_on",
        "standing",
    )

    def __init__(
        self,
        lane: EdgeLane,
        line: LaneLine,
        ask: Ask,
        body: bytes,
        standing: Standing,
        started: float,
        read: float,
        now: float,
    ) -> None:
        self._set_out(line, lane.inference.numbers.next(), started, now)
        self.lane = lane
        self.ask = ask
        self.body = body
        self.standing = standing
        self.entered = now
        self.is_sent = False
        self.passed_on: bytes | None = None  # the last events that were sent, once some were
        self.read_at = read
        self.chosen_at = time.perf_counter()

    @property
    def deadline(self) -> float:
        """Of all of it."""
        return self.entered + self.patience.total_s

    @property
    def patience(self) -> Patience:
        """How long it may take."""
        return self.standing.course.patience

    @property
    def decision(self) -> Decision:
        """Why it went where it went."""
        return self.standing.decision

    def is_shut(self) -> bool:
        """Whether its region has as many of the tenant's requests as it takes."""
        return self.lane.holdoffs.shut_s(*self.standing.course.who, self.entered) is not None

    # brief.Waiter -------------------------------------------------------------------------------------------

    def go(self, upstream: Upstream) -> None:
        """The request's bytes, in one write; what nobody waits for in the loop's next turn: uvloop writes between."""
        standing, ask, body = self.standing, self.ask, self.body
        course, reach, holdoffs = standing.course, standing.course.reach, self.lane.holdoffs
        self.upstream, self.pool, self.is_sent = upstream, reach.pool, True
        said = self.number, ask.stream, standing.num_tokens, ask.least_tokens, len(body), body
        upstream.lend(self, course.request % said, self.entered)
        if reach.health is not PROVEN:
            reach.saw(Outcome.SENT)
        if holdoffs.holds:
            holdoffs.sent(*course.who)
        if not standing.has_said:
            self.lane.loop.call_soon(self._meanwhile)

    def _meanwhile(self) -> None:
        decision = self.decision
        self.lane.inference.wake_near(decision, self.ask.model, self.entered)
        self.lane.terms(decision)
        self.standing.has_said = len(decision.choices) == 1 or decision.prewarm() is None

    def give_up(self) -> None:
        """The relay has a connection made for it."""
        self.line.go_on(self, self.go_on)

    # lane.Passage -------------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """The client is gone; while it waits, nobody else has heard of it."""
        if self.is_sent:
            self._came_back()
            super().cancel()
        else:
            self.standing.course.reach.pool.brief.leave(self)
            self.leave(self.lane.loop.time())

    def check(self, now: float) -> None:
        """Silence is the relay's, and so is the deadline."""
        if self.is_sent and (
            now - self.heard > min(LATE_S, self.patience.first_byte_s) or now >= self.deadline
        ):
            self.hand_over()

    # Carry --------------------------------------------------------------------------------------------------

    async def go_on(self, exchange: Exchange) -> None:
        """The relay does."""
        await self.lane.inference.go_on(exchange, self)

    def leave(self, now: float) -> None:
        """Its room is free, and a start has one more to its credit."""
        if self.standing.start is not None:
            self.standing.start.leave()
        self.lane.inference.room.leave(len(self.body), now - self.entered)

    def whole(self, shape: Shape, kept: bytes, timing: bytes, data: bytes, start: int) -> bool:
        """JSON from its first brace to its last."""
        body = data[start:]
        if shape.kind != b"application/json" or not body or body[0] != _OPENS or body[-1] != _CLOSES:
            return False  # whether it is whole is the relay's to say
        reach, ours = self.standing.course.reach, _TIMING % self.spans()
        self.say_whole(shape, kept, b"%b, %b" % (timing, ours) if timing else ours, body)
        if reach.health is not PROVEN:
            reach.saw(Outcome.SUCCEEDED)
        if self.lane.holdoffs.holds:
            self._came_back()
        self.over()
        self.lane.inference.receipts.passed(self, ours, data[:start])
        return True

    def grounds(self) -> Grounds:
        """What was chosen, and the second."""
        return self.standing.choices, self.line.roster.date

    def ours(self, lines: bytes, told: dict[bytes, bytes], number: bytes) -> bytes:
        """Where it was answered, and why there."""
        del lines
        lane, date = self.lane, b"" if b"date" in told else b"date: %b\r\n" % self.line.roster.date.encode()
        their = _THEIRS % number if lane.has_own_name else b""
        region = self.standing.course.reach.name.encode()
        return _OURS % (date, lane.says, their, number, region, lane.terms(self.decision))

    def begin(self, said: bytes, data: bytes, start: int) -> bool:
        """With its first event, unless there is none yet, or it may be replayed."""
        self._ending, self._told = Ending(), b""
        end, block = usual.whole_events(data, start)
        event = first_event(block)
        if (
            event is None
            or error_code(event) is not None
            or not self._may_pass(block, is_last=end < len(data))
        ):
            return False
        self.first_at, self.held, self.streams, self._said = time.perf_counter(), b"", True, said
        self._pass_on(block, said + data[start:end], is_last=end < len(data))
        return True

    def more(self, data: bytes) -> bool:
        """Whole events, chunk by chunk as they came."""
        end, block = usual.whole_events(data, 0)
        if end == len(data) and self._ending.passes(block):  # nearly every one
            self.passed_on = block
            self._pass(data)
            return True
        if end < 0 or not self._may_pass(block, is_last=end < len(data)):
            return False
        self._pass_on(block, data[:end], is_last=end < len(data))
        return True

    # inside -------------------------------------------------------------------------------------------------

    def _came_back(self) -> None:
        """Its region answers again, or nobody waits for it; of one that was handed over the relay says so."""
        self.lane.holdoffs.came_back(*self.standing.course.who)

    def phases(self) -> Phases:
        """The stopwatch of the relay, as far as it has come."""
        _, *spans = self.spans()
        known = 3 if self.streams else 2
        items = dict(zip(FORM.names[:known], spans, strict=False))
        return Phases.so_far("edge", self.started, items, self.first_at or self.chosen_at)

    def _may_pass(self, block: bytes, *, is_last: bool) -> bool:
        """Whether the client is to hear all of it, and its end is one."""
        ending = self._ending
        return b"\nid:" not in block and ending.pass_on(block) == block and (not is_last or ending.is_good)

    def _pass_on(self, block: bytes, said: bytes, *, is_last: bool) -> None:
        if is_last:
            return self._end(said)
        if RECEIPT in block:
            self._told += told_in(block)
        if self.passed_on is None or b"data:" in block:
            self.passed_on = block
        return self._pass(said)

    def _pass(self, said: bytes) -> None:
        self.line.say(said)
        self.heard = self.lane.loop.time()
        if self.line.is_behind:
            self.hand_over()

    def _end(self, said: bytes) -> None:
        spans = self.spans()
        reach = self.standing.course.reach
        members = members_of(reach.name, self.number.decode(), ())
        self._came_back()
        self.end(said, FORM.receipt(spans, members.encode()))
        reach.saw(Outcome.SUCCEEDED)
        told = self._told + told_in(said)
        self.lane.inference.receipts.passed(self, _TIMING % spans, self._said, told)
