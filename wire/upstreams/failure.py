"""How far a request to an upstream came before it failed, and whether it may be sent again."""

from typing import Literal

Phase = Literal["connect", "send", "head", "body"]


class DialError(Exception):
    """An upstream did not answer as it must.

    Attributes:
        phase: how far the request had come: `connect`, `send`, `head` or `body`.
        received: bytes of the answer seen; 0 means that the upstream may be asked, or another one, again.
        timed_out: a deadline of ours passed, rather than the connection breaking.
    """

    def __init__(self, phase: Phase, received: int, reason: str, *, timed_out: bool = False) -> None:
        super().__init__(f"{phase}: {reason}")
        self.phase: Phase = phase
        self.received = received
        self.timed_out = timed_out
