"""The short way of a request at the edge: a head that was admitted before, one region that takes it, its bytes back.

What `Inference` decides is decided by its own functions here too: the policy in force must be the very one that
admitted the head, the key's end and rate are looked at, the edge's room is taken, the body is read strictly, and
regions are ranked. What is left out is the task, and every second look at a head. The request's own part is in
`edge/relay/passing.py`; `wire/lane.py` has the rules.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NamedTuple

from edge.relay.passing import Passing
from regions.ask import MAX_BODY_BYTES, read_ask
from wire.dialect import is_anthropic
from wire.refusal import Refusal
from wire.repeat import Repeat
from wire.trace.context import TRACEPARENT

if TYPE_CHECKING:
    from edge.admission.admit import Admission
    from edge.choice.route import Decision
    from edge.infer import Inference
    from edge.reach.region import Reach
    from regions.ask import Ask
    from regions.chosen import Choice
    from regions.map import PolicyRow
    from regions.rows import Snapshot
    from wire.lane import Familiar, LaneLine


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
        self.inference = inference
        self._tracer = None if self.familiar.head.get(TRACEPARENT) else inference.tracer
        self.has_own_name = is_anthropic(self.familiar.head.path)
        self.says = "".join([f"{name}: {value}\r\n" for name, value in inference.says]).encode()
        self.repeat = Repeat()
        self._ends_s = self.admission.grant.expires_s  # the key's own time; 0: it has no end
        self._decided: tuple[Ask, Decision] | None = None  # the last one
        self._decided_in: tuple[float, Snapshot] = (
            0.0,
            inference.feed.snapshot,
        )  # the loop's turn, and on what
        self._terms: tuple[tuple[Choice, ...], bytes] = ((), b"")
        self._wakes = False  # whether they may have a near region woken
        self._heads: dict[str, bytes] = {}  # by region: what every request to it begins with

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
        head, now = self.familiar.head, self.loop.time()
        try:
            ask = read_ask(head.path, body, inference.feed.rules.aliases, for_quota=False)
            read = time.perf_counter()
            decision = self._decide(ask, body, now)
        except Refusal:
            return None
        return self._begin(Passing(self, line, ask, body, decision, started, read, now))

    def _decide(self, ask: Ask, body: bytes, now: float) -> Decision:
        """As `Inference` does; what it said of a request like this one, while that stands. Raises Refusal."""
        inference = self.inference
        if self._decided is not None:
            asked, decision = self._decided
            if ask.model == asked.model and ask.prompt_tokens == asked.prompt_tokens:
                turn = now, inference.feed.snapshot
                if turn == self._decided_in or inference.chooser.stands(decision, now):
                    self._decided_in = turn
                    return decision
        inference.refuse_unnamed(self.admission, ask)
        decision = inference.choose(self.familiar.head, self.admission, ask, body, now)
        self._decided = ask, decision
        return decision

    def _begin(self, passing: Passing) -> Passing | None:
        """Send it on a connection that is there, or will be at once; where it is not usual, nothing is done."""
        inference, pool, num_bytes = self.inference, passing.reach.pool, len(passing.body)
        if not inference.room.fits(num_bytes) or passing.reach.down or passing.is_shut():
            return None
        upstream = pool.kept(passing.entered)
        if upstream is None and not pool.frees_soon(passing.entered):
            return None
        if inference.buckets.take(self.admission.digest, passing.heard) is not None:
            if upstream is not None:
                upstream.take_back(whole=True)
                pool.keep(upstream, passing.entered)
            return None
        inference.room.hold(num_bytes)
        if passing.decision.start is not None:
            passing.decision.start.enter()
        inference.budgets.of(passing.ask.model, passing.heard)
        if upstream is None:
            pool.brief.join(passing)
        else:
            passing.go(upstream)
        return passing

    def constant_head(self, reach: Reach) -> bytes:
        """What every request to it begins with."""
        head = self._heads.get(reach.name)
        if head is None:
            head = self.inference.relay.constant_head(self.familiar.head, self.admission, reach)
            self._heads[reach.name] = head
        return head

    def has_said(self, decision: Decision) -> bool:
        """Whether its words are here, and nobody is to be woken by it: nothing is left to do beside the request."""
        return self._terms[0] is decision.choices and not self._wakes

    def terms(self, decision: Decision) -> bytes:
        """The decision in words; most decisions are the one before."""
        choices, words = self._terms
        if choices is not decision.choices:
            is_alike = choices == decision.choices
            self._terms = decision.choices, words if is_alike else decision.terms().encode()
            self._wakes = len(decision.choices) > 1 and decision.prewarm() is not None
        return self._terms[1]
