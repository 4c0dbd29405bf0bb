"""What became of the last requests of this edge process: where each went and where its time was spent.

Nothing of a prompt, an answer or a key is in it: a key's public id, names, numbers, and the receipts of the hops as
they came. A request costs one value here; what the hops said is read only when an operator looks.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from edge.receipts.receipt import FORM, Receipt
from edge.receipts.shown import shown
from regions.map.headers import KEY_ID_CHARS, REMOTE_BYTES, START, TOKENS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge.admission.admit import Admission
    from edge.relay.journey import Journey
    from edge.relay.passing import Passing
    from edge.relay.standing import Course
    from wire.refused.refusal import Refusal

MAX_KEPT: Final = 256  # some 2 KB each: what a person looks through, not a log
MAX_TOLD_BYTES: Final = 16 << 10  # of the hops' words; a receipt has about one
MAX_NAME_CHARS: Final = 200  # of a model that is none
CLIENT_GONE: Final = 499  # as nginx says it: no status was sent
OK: Final = 200
_NAMES: Final = frozenset(each.encode() for each in (START, TOKENS, REMOTE_BYTES, "server-timing"))


_Passed = tuple[float, bytes, "Course", bool, bytes, bytes, bytes]
"""Of a request that took a lane: what `_whole` makes a receipt of. Its times are one value here, as they were said."""


class Receipts:
    """The last MAX_KEPT requests, numbered from 1, and how many each region has answered."""

    def __init__(self) -> None:
        self.answered: dict[str, int] = defaultdict(int)
        self.failed = 0
        self.num = 0
        self._kept: deque[Receipt | _Passed] = deque(maxlen=MAX_KEPT)

    def note(self, receipt: Receipt) -> None:
        """Keep it."""
        self.num += 1
        self._kept.append(receipt)
        if receipt.region is not None:
            self.answered[receipt.region] += 1
        if receipt.status != OK:
            self.failed += 1

    def since(self, num: int) -> list[dict[str, Any]]:
        """Those behind the first `num`, as far as they are kept, oldest first."""
        num_new = min(self.num - num, len(self._kept)) if num <= self.num else len(self._kept)
        return [shown(_whole(each)) for each in islice(self._kept, len(self._kept) - num_new, None)]

    # who notes ----------------------------------------------------------------------------------------------

    def passed(self, passing: Passing, timing: bytes, head: bytes, told: bytes = b"") -> None:
        """A request of a lane is answered; `timing` is what `FORM.timing` says of it."""
        course = passing.standing.course
        self.num += 1
        self.answered[course.who[0]] += 1
        self._kept.append((time.time(), passing.number, course, passing.streams, timing, head, told))

    def travelled(self, journey: Journey) -> None:
        """A request of the relay is over, unless a refusal is still to be said."""
        exchange = journey.exchange
        if not exchange.status and not exchange.disconnected:
            return
        self.note(
            Receipt(
                time.time(),
                journey.request_id,
                journey.ask.model,
                journey.admission.grant.tenant,
                journey.admission.digest[:KEY_ID_CHARS],
                exchange.head.path,
                journey.answered_in,
                exchange.status if exchange.finished else exchange.status or CLIENT_GONE,
                journey.ask.stream,
                journey.phases.total_ms(),
                journey.phases.items,
                _lines(journey),
                b"".join(journey.receipts)[:MAX_TOLD_BYTES],
                tuple(f"{each.region} ({each.cause})" for each in journey.setbacks),
                "" if exchange.finished else "client_gone",
            )
        )

    def refused(
        self, admission: Admission, path: str, number: str, model: str, total_ms: float, refusal: Refusal
    ) -> None:
        """An admitted request was not sent to any region, or to none that answered."""
        grant, key = admission.grant, admission.digest[:KEY_ID_CHARS]
        self.note(
            Receipt(
                *(time.time(), number, model[:MAX_NAME_CHARS], grant.tenant, key, path, None, refusal.status),
                is_streamed=False,
                total_ms=total_ms,
                phases={},
                code=refusal.code,
            )
        )


def _whole(kept: Receipt | _Passed) -> Receipt:
    """One of a lane is put together here: every request has one, and few are looked at."""
    if isinstance(kept, Receipt):
        return kept
    at, number, course, is_streamed, timing, head, told = kept
    admission, (region, model, _) = course.admission, course.who
    total_ms, phases = FORM.read(timing)
    return Receipt(
        *(
            at,
            number.decode(),
            model,
            admission.grant.tenant,
            admission.digest[:KEY_ID_CHARS],
            course.path,
            region,
            OK,
        ),
        is_streamed=is_streamed,
        total_ms=total_ms,
        phases=phases,
        head=head,
        told=told[:MAX_TOLD_BYTES],
    )


def _lines(journey: Journey) -> bytes:
    """Of the region's own head what `shown` reads, as lines."""
    pairs = [(name.encode("latin-1"), value) for name, value in journey.answer_head]
    return b"".join(
        b"\n%b: %b\r" % (name, value.encode("latin-1")) for name, value in pairs if name in _NAMES
    )


class Flow(NamedTuple):
    """What one process carries: `num` requests ever, the newest of them, answers by region, and who is under way."""

    num: int
    answered: Mapping[str, int]
    failed: int
    busy: Mapping[str, int]
    receipts: tuple[dict[str, Any], ...]

    @classmethod
    def of(cls, receipts: Receipts, busy: Mapping[str, int], since: int | None) -> Flow:
        """Now, with the requests behind the first `since`; None: the counts alone."""
        kept = () if since is None else tuple(receipts.since(since))
        return cls(receipts.num, dict(receipts.answered), receipts.failed, busy, kept)
