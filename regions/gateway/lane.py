"""The short way of a request through a gateway: a head that came before on its connection from an edge.

Our edges end their heads in the lines that vary, so what comes before them is known again by its bytes: path, hop
token, tenant, and that no other region, no other revision and no resumption is meant. The model is found, its fit
looked at and its node picked by the ordinary way's own functions, for each request anew. The request's own part is in
`passing.py`; `wire/lanes/lane.py` has the rules.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, Final

from regions.ask import MAX_BODY_BYTES, Ask
from regions.gateway.passing import Passing
from regions.gateway.trip import MAX_DEADLINE_S
from regions.map.headers import ASK, DEADLINE_MS, FOR, REQUEST_ID, RESUME
from wire.lanes.lane import LATE_S
from wire.lanes.repeat import Repeat
from wire.refused.refusal import Refusal
from wire.trace.context import TRACEPARENT

if TYPE_CHECKING:
    from regions.gateway.infer import Inference
    from wire.lanes.lane import Familiar, LaneLine
    from wire.listener.exchange import Exchange

SOON_S: Final = 2 * LATE_S  # a deadline so near is the ordinary way's from the beginning
VARIES: Final = (REQUEST_ID, ASK, DEADLINE_MS, "content-length")
_ENDING: Final = re.compile(
    (
        f"{REQUEST_ID}: ([A-Za-z0-9_-]{{1,64}})\r\n"
        f"{ASK}: ([\x21-\x7e]{{1,194}}) ([01]) ([0-9]{{1,9}}) ([0-9]{{1,9}})\r\n"  # as Ask.header writes it
        f"{DEADLINE_MS}: ([0-9]{{1,9}})\r\ncontent-length: ([0-9]{{1,15}})"
    ).encode()
)


def known(exchange: Exchange) -> Familiar | None:
    """(While the handler has not waited) an edge's head, if requests like it may go the short way."""
    names = [name for name, _ in exchange.head.headers]
    num = len(VARIES)
    if tuple(names[-num:]) != VARIES or not {*VARIES, FOR, RESUME, TRACEPARENT}.isdisjoint(names[:-num]):
        return None
    return exchange.familiar(_ENDING)


class GatewayLane:
    """What one connection's head comes to."""

    def __init__(self, familiar: Familiar, inference: Inference) -> None:
        self.familiar = familiar
        self.inference = inference
        self.loop = (
            asyncio.get_running_loop()
        )  # to ask for it costs a call of the kernel, `getpid`, each time
        self.repeat = Repeat()
        self._heads: dict[str, bytes] = {}  # by node: what every request to it begins with

    def take(self, data: bytes, line: LaneLine) -> Passing | None:
        """Begin on a request of the same head. Whatever would be refused, or held, is the ordinary way's."""
        started = time.perf_counter()
        found = self.familiar.whole(data)
        if found is None:
            return None
        (number, model, stream, about, least, most_ms, _), body = found[0].groups(), found[1]
        left_s = min(MAX_DEADLINE_S, int(most_ms) / 1000)
        if len(body) > MAX_BODY_BYTES or left_s < SOON_S:
            return None
        try:
            ask = Ask(model.decode(), stream == b"1", int(about), int(least))
            deployment, revision = self.inference.find(ask, self.familiar.head.path)
        except Refusal:
            return None
        now = self.loop.time()
        passing = Passing(self, line, ask, body, deployment, revision, number, started, now, now + left_s)
        return passing if self._begin(passing, left_s) else None

    def _begin(self, passing: Passing, left_s: float) -> bool:
        """Send it to a worker that is there, on a connection that is; else nothing is done."""
        passing.read_at = time.perf_counter()
        relay, address = self.inference.relay, self.inference.pick(passing.head, passing.revision)
        if address is None:
            return False
        upstream = relay.pools[address].kept(passing.entered)
        if upstream is None:
            return False
        passing.chosen_at = time.perf_counter()
        passing.send(address, upstream, self._heads.get(address) or self._head(address), left_s)
        return True

    def _head(self, address: str) -> bytes:
        made = self._heads[address] = self.inference.relay.constant_head(self.familiar.head, address)
        return made
