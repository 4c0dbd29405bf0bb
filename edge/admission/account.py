"""One key's account: a minute's worth of requests and of tokens, and how many may run at once.

A minute's worth is a bucket that fills all the time, so there is no moment at which a minute begins. Requests beyond
those that may run at once wait in a short queue of their own key; keys never wait for one another here. What is counted
lies in a ledger (`edge.admission.ledger`), which may be that of several processes.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import TYPE_CHECKING, Final

from edge.admission.ledger import REQUESTS, RUNNING, TOKENS
from wire.counted import counted
from wire.flow import in_task
from wire.refused.refusal import Refusal
from wire.turnover import MAX_WAIT_S as MAX_RETRY_S
from wire.turnover import Turnover

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from edge.admission.ledger import Cells, Ledger
    from regions.map.policy import Quota
    from wire.http.http1 import Headers

MINUTE_S: Final = 60.0
MAX_QUEUED: Final = 64  # of one key, or as many as may run at once where that is less
MAX_WAIT_S: Final = 5.0  # in that queue; a client that waits longer is better told when to come back
LOOK_S: Final = (
    0.02  # while somebody waits: a place that another process of the edge left is found so late at most
)


class OverQuota(Refusal):
    """The key's own quota, in OpenAI's words; `kind` says of what."""

    def __init__(self, kind: str, message: str, wait_s: float, headers: Headers) -> None:
        super().__init__(429, "rate_limit_exceeded", message, kind, retry_after_s=min(MAX_RETRY_S, wait_s))
        self._headers = headers

    def headers(self) -> Headers:
        """With what is left of each quota."""
        return (*super().headers(), *self._headers)


class Bucket:
    """So many a minute, in a ledger's cells; full at first, and when it has another size than it had."""

    __slots__ = ("_at", "_cells", "most")

    def __init__(self, cells: Cells, at: int, most: int, now: float) -> None:
        self.most = most
        self._cells = cells
        self._at = at
        if cells[at + 2] != most:
            cells[at], cells[at + 1], cells[at + 2] = most, now, most

    def level(self, now: float) -> float:
        """What is there; less than none after more was used than was reserved."""
        cells, at = self._cells, self._at
        passed_s = max(0.0, now - cells[at + 1])  # another process's loop may be some milliseconds ahead
        cells[at], cells[at + 1] = min(self.most, cells[at] + passed_s * self.most / MINUTE_S), now
        return cells[at]

    def wait_s(self, amount: float, now: float) -> float:
        """Seconds until so much is there; 0 if it is."""
        return max(0.0, (amount - self.level(now)) * MINUTE_S / self.most)

    def take(self, amount: float) -> None:
        """Take so much; a negative amount is given back."""
        self._cells[self._at] = min(self.most, self._cells[self._at] - amount)

    def headers(self, name: str, now: float) -> Headers:
        """As OpenAI's clients read them."""
        return (
            (f"x-ratelimit-limit-{name}", str(self.most)),
            (f"x-ratelimit-remaining-{name}", str(max(0, int(self.level(now))))),
            (f"x-ratelimit-reset-{name}", span(self.wait_s(self.most, now))),
        )


class Account:
    """One key's, as this process has it: its quota, who runs here, and who waits to."""

    def __init__(self, digest: str, quota: Quota, ledger: Ledger) -> None:
        self.quota = quota
        self.num_running = 0  # in this process
        self._digest = digest
        self._ledger = ledger
        self._queue: deque[asyncio.Future[None]] = deque()
        self._look: asyncio.TimerHandle | None = None
        self._turnover = Turnover()

    @property
    def is_idle(self) -> bool:
        """Nobody is here."""
        return not self.num_running and not self._queue

    def headers(self, now: float) -> Headers:
        """What is left, for any answer."""
        with self._held() as cells:
            return self._headers(cells, now)

    def count(self, now: float) -> None:
        """One request more. Raises OverQuota."""
        if not self.quota.requests_per_min:
            return
        with self._held() as cells:
            bucket = Bucket(cells, REQUESTS, self.quota.requests_per_min, now)
            wait_s, headers = bucket.wait_s(1.0, now), self._headers(cells, now)
            if wait_s == 0:
                bucket.take(1.0)
                return
        may = f"This key may send {counted(bucket.most, 'request')} a minute at this edge"
        text = f"{may}; try again in {span(wait_s)}."
        raise OverQuota("requests", text, wait_s, headers)

    async def place(self, now: float) -> bool:
        """A place among those that run, at once or after a short wait: whether it had to. Raises OverQuota."""
        if self._took_place():
            return False
        await in_task()  # a time-out needs one, and making it takes a turn of the loop
        if self._took_place():
            return False
        if len(self._queue) >= min(MAX_QUEUED, self.quota.streams):
            raise self._crowded(now)
        turn, has_place = asyncio.get_running_loop().create_future(), False
        self._queue.append(turn)
        self._look_soon()
        try:
            async with asyncio.timeout(MAX_WAIT_S):
                await turn
            has_place = True
        except TimeoutError:
            raise self._crowded(now + MAX_WAIT_S) from None
        finally:
            if not has_place:
                self._turn_down(turn)
        return True

    def leave(self, stay_s: float) -> None:
        """One that ran is over; who waits longest has its place."""
        self._turnover.left(stay_s)
        self._free()

    def reserve(self, amount: int, now: float) -> int:
        """Tokens for one request. Raises OverQuota."""
        if not self.quota.tokens_per_min:
            return 0
        with self._held() as cells:
            bucket = Bucket(cells, TOKENS, self.quota.tokens_per_min, now)
            amount = min(amount, bucket.most)
            wait_s, left, headers = bucket.wait_s(amount, now), bucket.level(now), self._headers(cells, now)
            if wait_s == 0:
                bucket.take(amount)
                return amount
        text = f"This key may use {bucket.most} tokens a minute at this edge; left: {max(0, int(left))}, and this "
        text += f"request may use {amount}. Try again in {span(wait_s)}, or with a lower max_tokens."
        raise OverQuota("tokens", text, wait_s, headers)

    def pay(self, amount: float, now: float) -> None:
        """So much more than was reserved was used; less where it is negative."""
        if self.quota.tokens_per_min:
            with self._held() as cells:
                bucket = Bucket(cells, TOKENS, self.quota.tokens_per_min, now)
                bucket.level(now)
                bucket.take(amount)

    def _held(self) -> AbstractContextManager[Cells]:
        return self._ledger.held(self._digest)

    def _headers(self, cells: Cells, now: float) -> Headers:
        requests, tokens = self.quota.requests_per_min, self.quota.tokens_per_min
        said = Bucket(cells, REQUESTS, requests, now).headers("requests", now) if requests else ()
        return (*said, *(Bucket(cells, TOKENS, tokens, now).headers("tokens", now) if tokens else ()))

    def _took_place(self) -> bool:
        """Behind those who wait already."""
        return not (self._queue and self.quota.streams) and self._took()

    def _took(self) -> bool:
        most = self.quota.streams
        with self._held() as cells:
            if most and sum(cells[RUNNING:]) >= most:
                return False
            cells[RUNNING + self._ledger.me] += 1
        self.num_running += 1
        return True

    def _free(self) -> None:
        self.num_running -= 1
        with self._held() as cells:
            cells[RUNNING + self._ledger.me] -= 1
        self._hand_out()

    def _hand_out(self) -> None:
        while self._queue:
            if self._queue[0].done():
                self._queue.popleft()
            elif self._took():
                self._queue.popleft().set_result(None)
            else:
                return

    def _look_soon(self) -> None:
        """Places that other processes leave are told to nobody."""
        if self._ledger.is_shared and self._look is None:
            self._look = asyncio.get_running_loop().call_later(LOOK_S, self._look_again)

    def _look_again(self) -> None:
        self._look = None
        self._hand_out()
        if self._queue:
            self._look_soon()

    def _turn_down(self, turn: asyncio.Future[None]) -> None:
        """Its client is gone, or it waited too long: a place that it has just been given goes to the next one."""
        if turn in self._queue:
            self._queue.remove(turn)
        elif turn.done() and not turn.cancelled():
            self._free()

    def _crowded(self, now: float) -> OverQuota:
        most = self.quota.streams
        wait_s = self._turnover.wait_s((len(self._queue) + 1) / most)
        text = (
            f"This key may have {counted(most, 'request')} at once at this edge; try again in {span(wait_s)}."
        )
        return OverQuota("requests", text, wait_s, self.headers(now))


def span(seconds: float) -> str:
    """As OpenAI writes it: 120ms, 1.5s, 6m0s."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(seconds, MINUTE_S)
    return f"{int(minutes)}m{int(rest)}s" if minutes else f"{rest:.3g}s"
