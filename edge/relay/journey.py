"""One admitted inference request on its way: its facts, its clock, and the heads that are written for it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from regions.map.headers import (
    ASK,
    ATTEMPT,
    DEADLINE_MS,
    FOR,
    KEY,
    KEY_ID_CHARS,
    PREFER_REPLICA,
    REGION,
    REQUEST_ID,
    ROUTE,
    TENANT,
    WAIT_S,
    WAITED,
    WEIGHT,
)
from wire.dialect import id_headers
from wire.http.http1 import without_hop_headers
from wire.timing import quoted
from wire.trace.context import passed_on

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge.admission.admit import Admission
    from edge.admission.quota import Use
    from edge.admission.room import Room
    from edge.choice.route import Decision
    from edge.relay.budget import Budget
    from edge.relay.patience import Patience
    from edge.relay.resume import Resumption
    from edge.relay.setback import Setback
    from edge.relay.told import Told
    from regions.ask import Ask
    from wire.http.http1 import Headers, RequestHead
    from wire.listener.exchange import Exchange
    from wire.timing import Phases

MAX_REPLAYS: Final = 2  # three regions have been asked by then; a fourth would meet the same trouble
LATE_S: Final = 0.01  # a timer that rings this early rang at the deadline
OWN: Final = frozenset({"server", "content-length", "server-timing", REQUEST_ID, REGION, ROUTE})


@dataclass(slots=True)
class Journey:
    """One admitted inference request on its way.

    `deadline` is loop time, `says` are headers of any answer, and `use` hears what the answer used of a quota.
    """

    exchange: Exchange
    admission: Admission
    ask: Ask
    body: bytes
    decision: Decision
    request_id: str
    phases: Phases
    deadline: float
    patience: Patience
    budget: Budget
    room: Room
    says: Headers = ()
    use: Use | None = None
    resumption: Resumption | None = None
    passed_on: bytes | None = None  # the last events that a lane has sent; they committed the answer
    setbacks: list[Setback] = field(default_factory=list)
    via: str | None = None  # the region whose gateway passes it on to the one that is asked
    told: Told | None = None  # what will be told of it, if it is recorded
    answered_in: str | None = None
    answer_head: Headers = ()  # the region's own
    receipts: list[bytes] = field(default_factory=list)  # receipts of the hops behind
    _terms: str = ""

    def terms(self) -> str:
        """The decision as the answer tells it; asked for while the request is on its way, and kept."""
        self._terms = self._terms or self.decision.terms()
        return self._terms

    def now(self) -> float:
        """Loop time."""
        return asyncio.get_running_loop().time()

    def left_s(self) -> float:
        """Seconds until the deadline, 0 when it is past."""
        return max(0.0, self.deadline - self.now())

    def is_late(self) -> bool:
        """Whether the deadline is past, as far as a timer can tell."""
        return self.left_s() < LATE_S

    def within_s(self, seconds: float) -> float:
        """`seconds`, or what is left of the deadline where that is less."""
        return min(seconds, self.deadline - self.now())

    def may_replay(self) -> bool:
        """Whether another region can still be asked after the one that is being asked now."""
        num_asked = len(self.setbacks) + 1
        if num_asked >= len(self.decision.choices) or num_asked > MAX_REPLAYS:
            return False
        return self.left_s() > 0 and self.budget.has_one(self.now())

    def may_resume(self) -> bool:
        """Whether another region could go on with the stream that breaks off now."""
        return self.resumption is not None and self.resumption.can_go_on and self.may_replay()

    def request_body(self) -> bytes:
        """The client's bytes, and behind a stream that broke off what it has of the answer."""
        return self.body if self.resumption is None else self.resumption.body(self.body)

    def request_headers(self, region: str, ours: Headers, left_s: float) -> Headers:
        """A new head for `region`: `ours`, and nothing of the client's but what `said_of` names."""
        trace = None if self.told is None else self.told.asks(region)
        return (
            *ours,
            *said_of(self.exchange.head, self.admission, trace),
            *(((WAITED, "1"),) if self.use is not None and self.use.has_waited else ()),
            (ATTEMPT, str(len(self.setbacks))),
            (REQUEST_ID, self.request_id),
            (ASK, self.ask.header()),
            (DEADLINE_MS, str(int(left_s * 1000))),
            *(((FOR, region),) if self.via is not None else ()),
            *(() if self.resumption is None else self.resumption.headers()),
        )

    def answer_headers(
        self, region: str | None, upstream: Headers = (), timing: str | None = None
    ) -> Headers:
        """The region's headers with ours in place of those of the same name."""
        self.answered_in, self.answer_head = region, upstream
        headers = list(without_hop_headers(upstream, OWN))
        headers += (*id_headers(self.exchange.head.path, self.request_id), *self.says)
        if region is not None:
            headers.append((REGION, region))
        replayed = [f"; replayed={each.region}({each.cause})" for each in self.setbacks]
        via = [f"; via={self.via}"] if self.via is not None else []
        headers.append((ROUTE, "".join([self.terms(), *replayed, *via])))
        if timing is not None:
            said = [value for name, value in upstream if name == "server-timing"]
            headers.append(("server-timing", ", ".join([*said, timing])))
        return tuple(headers)

    def receipt(self, region: str | None) -> bytes:
        """The edge's last line of a stream."""
        replayed = [f"{each.region}({each.cause})" for each in self.setbacks]
        return self.phases.receipt(members_of(region, self.request_id, replayed))


def members_of(region: str | None, request_id: str, replayed: Sequence[str]) -> str:
    """What the edge's last line of a stream says beside its phases, as members of that JSON object."""
    where = "null" if region is None else quoted(region)
    replays = ", ".join(map(quoted, replayed))
    return f', "region": {where}, "request_id": {quoted(request_id)}, "replayed": [{replays}]'


def said_of(head: RequestHead, admission: Admission, trace: Headers | None = None) -> Headers:
    """What a region is told of the client's head: the same for every request of that head.

    `trace`: of the trace, where it is recorded; else what the client said of one goes on.
    """
    wait, weight, replica = head.get(WAIT_S), admission.grant.quota.weight, head.get(PREFER_REPLICA)
    return (
        ("accept", head.get("accept") or "*/*"),
        (TENANT, admission.grant.tenant),
        (KEY, admission.digest[:KEY_ID_CHARS]),
        *(((WAIT_S, wait),) if wait is not None else ()),
        *(((PREFER_REPLICA, replica),) if replica is not None else ()),
        *(((WEIGHT, str(weight)),) if weight != 1 else ()),
        *(passed_on(head) if trace is None else trace),
    )
