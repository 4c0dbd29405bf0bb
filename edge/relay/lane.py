"""The short way of a request at the edge: a head that was admitted before, one region that takes it, its bytes back.

What `Inference` decides is decided by its own functions here too: the policy in force must be the very one that
admitted the head, the key's end and rate are looked at, the edge's room is taken, the body is read strictly, and
regions are ranked. What is left out is the task, and every second look at a head. The request's own part is in
`edge/relay/passing.py`; `wire/lanes/lane.py` has the rules.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from edge.relay.passing import Passing
from edge.relay.standing import Course, Standing
from regions.ask import MAX_BODY_BYTES, read_ask
from wire.dialect import is_anthropic
from wire.lanes.repeat import Repeat
from wire.refused.refusal import Refusal
from wire.trace.context import TRACEPARENT

if TYPE_CHECKING:
    from edge.admission.admit import Admission
    from edge.choice.route import Decision
    from edge.infer import Inference
    from regions.ask import Ask
    from regions.chosen import Choice
    from regions.map.policy import PolicyRow
    from wire.lanes.lane import Familiar, LaneLine

MAX_COURSES: Final = 256  # of one lane, about 1 KB each: regions times models that are asked for


class Judged(NamedTuple):
    """A head that was admitted, and the policy that admitted it."""

    familiar: Familiar
    admission: Admission
    policy: PolicyRow | None


class EdgeLane:
    """What one head comes to on all connections of a listener, while one policy is in force."""

    def __init__(self, judged: Judged, inference: Inference) -> None:
        self.familiar, self.admission, self._policy = judged
        self.loop = (
            asyncio.get_running_loop()
        )  # to ask for it costs a call of the kernel, `getpid`, each time
        self.inference, self.holdoffs = inference, inference.relay.holdoffs
        self._tracer = None if self.familiar.head.get(TRACEPARENT) else inference.tracer
        self._path = self.familiar.head.path
        self.has_own_name = is_anthropic(self._path)
        self.says = "".join([f"{name}: {value}\r\n" for name, value in inference.says]).encode()
        self.repeat = Repeat()
        self._digest = self.admission.digest
        self._ends_s = self.admission.grant.expires_s  # the key's own time; 0: it has no end
        self._standing: Standing | None = None  # the last decision
        self._terms: tuple[tuple[Choice, ...], bytes] = ((), b"")
        self._courses: dict[tuple[str, str], Course] = {}  # by region and model

    def take(self, data: bytes, line: LaneLine) -> Passing | None:
        """Begin on a request of the same head. Whatever would be refused, or waits, is `Inference`'s."""
        started, inference = time.perf_counter(), self.inference
        body = self.familiar.body(data)
        if body is None or inference.feed.snapshot.policy is not self._policy:
            return None
        if self._ends_s and time.time() >= self._ends_s:
            return None
        if len(body) > MAX_BODY_BYTES or (self._tracer is not None and not self._tracer.skips()):
            return None
        now = self.loop.time()
        try:
            ask = read_ask(self._path, body, inference.feed.rules.aliases, for_quota=False)
            read = time.perf_counter()
            standing = self._decide(ask, body, now)
        except Refusal:
            return None
        return self._begin(Passing(self, line, ask, body, standing, started, read, now))

    def _decide(self, ask: Ask, body: bytes, now: float) -> Standing:
        """As `Inference` does; what it said of a request like this one, while that stands. Raises Refusal."""
        known = self._standing
        if known is not None and ask.model == known.model and ask.prompt_tokens == known.num_tokens:
            on = self.inference.feed.snapshot
            if now == known.looked_at and on is known.on:
                return known
            if self.inference.chooser.stands(known.decision, now):
                known.looked_at, known.on = now, on
                return known
        return self._decide_anew(ask, body, now)

    def _decide_anew(self, ask: Ask, body: bytes, now: float) -> Standing:
        inference = self.inference
        inference.refuse_unnamed(self.admission, ask)
        decision = inference.choose(self.familiar.head, self.admission, ask, body, now)
        course = self._course(ask, decision.choices[0].region)
        budget = inference.budgets.of(ask.model, now, is_new=False)
        made = self._standing = Standing(ask, decision, course, budget, now, inference.feed.snapshot)
        return made

    def _begin(self, passing: Passing) -> Passing | None:
        """Send it on a connection that is there, or will be at once; where it is not usual, nothing is done."""
        inference, standing, num_bytes = self.inference, passing.standing, len(passing.body)
        reach = standing.course.reach
        is_shut = self.holdoffs.holds and passing.is_shut()
        if is_shut or reach.down_since is not None:
            return None
        pool, room = reach.pool, inference.room
        upstream = pool.kept(passing.entered)
        if upstream is None and not pool.frees_soon(passing.entered):
            return None
        is_in = room.holds(num_bytes)
        if not is_in or inference.buckets.take(self._digest, passing.entered) is not None:
            if is_in:
                room.undo(num_bytes)
            if upstream is not None:
                upstream.take_back(whole=True)
                pool.keep(upstream, upstream.idle_since)
            return None
        if standing.start is not None:
            standing.start.enter()
        standing.budget.num_requests += 1
        if upstream is None:
            pool.brief.join(passing)
        else:
            passing.go(upstream)
        return passing

    def _course(self, ask: Ask, region: str) -> Course:
        course = self._courses.get((region, ask.model))
        if course is None:
            if len(self._courses) >= MAX_COURSES:
                self._courses.clear()
            course = self._courses[region, ask.model] = Course(
                self, self.inference.relay.reaches[region], ask
            )
        return course

    def terms(self, decision: Decision) -> bytes:
        """The decision in words; most decisions are the one before."""
        choices, words = self._terms
        if choices is not decision.choices:
            is_alike = choices == decision.choices
            self._terms = decision.choices, words if is_alike else decision.terms().encode()
        return self._terms[1]
