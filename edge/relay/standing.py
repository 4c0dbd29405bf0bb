"""What the requests of a lane have in common: those for one model that go to one region, and those decided alike.

A request has its own number, body and times; all else that is said and kept of it was said of the one before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from regions.map.headers import ASK, DEADLINE_MS, REQUEST_ID

if TYPE_CHECKING:
    from edge.choice.route import Decision
    from edge.reach.region import Reach
    from edge.relay.budget import Budget
    from edge.relay.lane import EdgeLane
    from regions.ask import Ask
    from regions.rows import Snapshot

_VARIES: Final = (
    f"{REQUEST_ID}: %%b\r\n{ASK}: %b %%d %%d %%d\r\n{DEADLINE_MS}: %d\r\ncontent-length: %%d\r\n\r\n%%b"
)


class Course:
    """To one region, for one model.

    Attributes:
        request: of a number, whether it streams, about and at least how many tokens, the body's length and the body:
            what is sent, as `Ask.header` writes the ask.
        who: region, model and tenant, as hold-offs know them.
    """

    __slots__ = ("admission", "path", "patience", "reach", "request", "who")

    def __init__(self, lane: EdgeLane, reach: Reach, ask: Ask) -> None:
        head, inference = lane.familiar.head, lane.inference
        self.reach, self.admission, self.path = reach, lane.admission, head.path
        self.patience = inference.patiences.of(ask, head.path)
        self.who = reach.name, ask.model, lane.admission.grant.tenant
        constant = inference.relay.constant_head(head, lane.admission, reach).replace(b"%", b"%%")
        self.request = constant + _VARIES.encode() % (ask.model.encode(), self.patience.total_s * 1000)


class Standing:
    """One decision, while it stands, with those of its parts that every request asks for: a tuple's names cost more.

    Attributes:
        budget: of the model, in which each request is counted.
        has_said: its words are here, and nobody is to be woken by it: nothing is left to do beside the request.
        looked_at: the loop's turn in which it was looked at last, `on` these rows; loop time.
    """

    __slots__ = (
        "budget",
        "choices",
        "course",
        "decision",
        "has_said",
        "looked_at",
        "model",
        "num_tokens",
        "on",
        "start",
    )

    def __init__(
        self, ask: Ask, decision: Decision, course: Course, budget: Budget, now: float, on: Snapshot
    ) -> None:
        self.model, self.num_tokens = ask.model, ask.prompt_tokens
        self.decision, self.course, self.budget = decision, course, budget
        self.choices, self.start = decision.choices, decision.start
        self.has_said = False
        self.looked_at, self.on = now, on
