"""One request on a gateway's lane: leased, sent in one write, its answer passed on by one call, its books kept after.

It passes an answer that is 200 and whole, and a stream of whole events in whole chunks, to its end and our receipt.
Parts of events, errors, a node that is not what we thought and everything else are the ordinary way's, which goes on
from there.
"""

from __future__ import annotations

import math
import re
import time
from typing import TYPE_CHECKING, Final

from regions.gateway.trip import OWN
from regions.map.headers import DEADLINE_MS, REGION, REMOTE_BYTES, REPLICA, REQUEST_ID, REVISION, START
from regions.map.region import Tier
from regions.nodes.pick import replica_id
from wire.lanes import usual
from wire.lanes.carry import Carry
from wire.lanes.lane import LATE_S
from wire.listener.exchange import PROCESSING
from wire.timing import Form, Phases, quoted

if TYPE_CHECKING:
    from regions.ask import Ask
    from regions.deployments import Deployment
    from regions.gateway.lane import GatewayLane
    from weights_cache.model.revision import Revision
    from wire.lanes.lane import LaneLine
    from wire.lanes.shape import Grounds, Shape
    from wire.listener.exchange import Exchange
    from wire.upstreams.upstream import Upstream

OK: Final = 200
FORM: Final = Form("gateway", ("read", "pick", "first_byte", "stream"))
_START: Final = re.compile(rb"\n(?i:%b):" % START.encode())
_SENT: Final = (
    f"%b{REVISION}: %b\r\n{REQUEST_ID}: %b\r\n{DEADLINE_MS}: %d\r\ncontent-length: %d\r\n\r\n%b".encode()
)


class Passing(Carry):
    """The lease, and what else it holds, are given back by `leave`; `deadline` and `entered` are loop time."""

    found = Tier.RESIDENT
    dropped = usual.dropping(OWN - {START})  # what the node says of its start is passed on
    lane: GatewayLane
    __slots__ = (
        "address",
        "ask",
        "body",
        "deadline",
        "deployment",
        "entered",
        "lane",
        "revision",
        "spoke",
    )

    def __init__(
        self,
        lane: GatewayLane,
        line: LaneLine,
        ask: Ask,
        body: bytes,
        deployment: Deployment,
        revision: Revision,
        number: bytes,
        started: float,
        now: float,
        deadline: float,
    ) -> None:
        self._set_out(line, number, started, now)
        self.lane = lane
        self.ask = ask
        self.body = body
        self.deployment = deployment
        self.revision = revision
        self.entered = now
        self.deadline = deadline
        self.spoke = True
        self.address = ""

    def send(self, address: str, upstream: Upstream, constant: bytes, left_s: float) -> None:
        """The request's bytes, in one write."""
        self.address, self.upstream, self.pool = address, upstream, self.lane.inference.relay.pools[address]
        revision, body = self.revision.id.encode(), self.body
        head = _SENT % (constant, revision, self.number, math.ceil(left_s * 1000), len(body), body)
        upstream.lend(self, head, self.entered)
        inference = self.lane.inference
        self.deployment.lease(self.revision)
        inference.relay.enter((address, self.revision.id))
        inference.pulse.join(self)

    def pulse(self, comment: bytes) -> None:
        """A sign of life, as an exchange would give it."""
        self.line.say(b"%x\r\n%b\r\n" % (len(comment), comment) if self.streams else PROCESSING)

    # lane.Passage -------------------------------------------------------------------------------------------

    def check(self, now: float) -> None:
        """Silence is the ordinary way's, and so is a deadline that comes near."""
        if now - self.heard > LATE_S or now + LATE_S >= self.deadline:
            self.hand_over()

    def cancel(self) -> None:
        """The client is gone."""
        super().cancel()
        self._count("client_gone")

    # Carry --------------------------------------------------------------------------------------------------

    async def go_on(self, exchange: Exchange) -> None:
        """The ordinary way does; it takes a lease of its own before anybody else can run."""
        self.leave(self.lane.loop.time())
        await self.lane.inference.go_on(exchange, self)

    def leave(self, now: float) -> None:
        """Its lease, and its place in the figures of what is under way."""
        del now
        inference = self.lane.inference
        inference.pulse.leave(self)
        inference.relay.leave((self.address, self.revision.id))
        self.deployment.release(self.revision)

    def hold(self, data: bytes) -> bool:
        """The head is here, so the node has begun."""
        self._begun()
        return super().hold(data)

    def whole(self, shape: Shape, kept: bytes, timing: bytes, data: bytes, start: int) -> bool:
        """Of any kind."""
        self._begun()
        ours = FORM.timing % self.spans()
        self.say_whole(shape, kept, b"%b, %b" % (timing, ours) if timing else ours, data[start:])
        self.over()
        self._count_soon()
        return True

    def grounds(self) -> Grounds:
        """The node, the revision, and the second."""
        return self.address, self.revision.id, self.line.roster.date

    def ours(self, lines: bytes, told: dict[bytes, bytes], number: bytes) -> bytes:
        """Where it was answered, and by whom."""
        date = "" if b"date" in told else f"date: {self.line.roster.date}\r\n"
        start = "" if _START.search(lines) else f"{START}: {self.found}\r\n"
        region, replica = self.lane.inference.deployments.region, replica_id(self.address)
        ours = (
            f"{date}{REQUEST_ID}: {number.decode()}\r\n{REGION}: {region}\r\n"
            f"{REVISION}: {self.revision.id}\r\n{start}{REMOTE_BYTES}: 0\r\n{REPLICA}: {replica}\r\n"
        )
        return ours.encode()

    def begin(self, said: bytes, data: bytes, start: int) -> bool:
        """Whole events, and perhaps the end."""
        end, _ = usual.whole_events(data, start)
        if end < 0:
            return False
        self._begun()
        self.held, self.streams = b"", True
        self._pass_on(said + data[start:end], is_last=end < len(data))
        return True

    def more(self, data: bytes) -> bool:
        """The same of what comes later."""
        end, _ = usual.whole_events(data, 0)
        if end < 0:
            return False
        self._pass_on(data[:end], is_last=end < len(data))
        return True

    # inside -------------------------------------------------------------------------------------------------

    def _begun(self) -> None:
        self.first_at = self.first_at or time.perf_counter()

    def phases(self) -> Phases:
        """The stopwatch of the ordinary way, as far as it has come."""
        _, *spans = self.spans()
        known = 3 if self.first_at else 2
        items = dict(zip(FORM.names[:known], spans, strict=False))
        return Phases.so_far("gateway", self.started, items, self.first_at or self.chosen_at)

    def _pass_on(self, events: bytes, *, is_last: bool) -> None:
        if is_last:
            where = quoted(self.lane.inference.deployments.region)
            self.end(events, FORM.receipt(self.spans(), f', "region": {where}, "remote_bytes": 0'.encode()))
            self._count_soon()
            return
        self.line.say(events)
        self.spoke, self.heard = True, self.lane.loop.time()
        if self.line.is_behind:
            self.hand_over()

    def _count_soon(self) -> None:
        """In the loop's next turn: uvloop writes what was said between this one and that."""
        self.lane.loop.call_soon(self._count)

    def _count(self, error: str = "") -> None:
        status = OK if not error or self.streams else 0
        first_s = self.first_at - self.started if self.first_at else None
        took_s = time.perf_counter() - self.started
        self.lane.inference.count(self, self.head.path, status, error, first_s, took_s)
