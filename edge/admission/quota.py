"""What one key may use at this edge: requests and tokens a minute, and requests at once.

A minute's worth is a bucket that fills all the time, so there is no moment at which a minute begins. A request
reserves what it may use, its prompt by an estimate and `max_tokens`, and pays when it is over for what the node
counted. Requests beyond those that may run at once wait in a short queue of their own key; keys never wait for one
another here. Counts are this edge's own: a key that uses several edges has its quota at each.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Final

from edge.admission.rate import MAX_KEYS
from regions.map import TOKENS
from wire.flow import in_task
from wire.refusal import Refusal
from wire.timing import parse_receipt
from wire.turnover import MAX_WAIT_S as MAX_RETRY_S
from wire.turnover import Turnover

if TYPE_CHECKING:
    from regions.ask import Ask
    from regions.map import Quota
    from wire.http1 import Headers, ResponseHead

MINUTE_S: Final = 60.0
MAX_QUEUED: Final = 64  # of one key, or as many as may run at once where that is less
MAX_WAIT_S: Final = 5.0  # in that queue; a client that waits longer is better told when to come back
NODE_RECEIPT: Final = b': nearfield {"hop": "node"'
ERRORS: Final = 400


class OverQuota(Refusal):
    """The key's own quota, in OpenAI's words; `kind` says of what."""

    def __init__(self, kind: str, message: str, wait_s: float, headers: Headers) -> None:
        super().__init__(429, "rate_limit_exceeded", message, kind, retry_after_s=min(MAX_RETRY_S, wait_s))
        self._headers = headers

    def headers(self) -> Headers:
        """With what is left of each quota."""
        return (*super().headers(), *self._headers)


class Bucket:
    """So many a minute; full at first."""

    __slots__ = ("_at", "_level", "most")

    def __init__(self, most: int, now: float) -> None:
        self.most = most
        self._level = float(most)
        self._at = now

    def level(self, now: float) -> float:
        """What is there; less than none after more was used than was reserved."""
        self._level = min(self.most, self._level + (now - self._at) * self.most / MINUTE_S)
        self._at = now
        return self._level

    def wait_s(self, amount: float, now: float) -> float:
        """Seconds until so much is there; 0 if it is."""
        return max(0.0, (amount - self.level(now)) * MINUTE_S / self.most)

    def take(self, amount: float) -> None:
        """Take so much; a negative amount is given back."""
        self._level = min(self.most, self._level - amount)

    def headers(self, name: str, now: float) -> Headers:
        """As OpenAI's clients read them."""
        return (
            (f"x-ratelimit-limit-{name}", str(self.most)),
            (f"x-ratelimit-remaining-{name}", str(max(0, int(self.level(now))))),
            (f"x-ratelimit-reset-{name}", _span(self.wait_s(self.most, now))),
        )


class Account:
    """One key's: its buckets, who runs, and who waits to."""

    def __init__(self, quota: Quota, now: float) -> None:
        self.quota = quota
        self.requests = Bucket(quota.requests_per_min, now) if quota.requests_per_min else None
        self.tokens = Bucket(quota.tokens_per_min, now) if quota.tokens_per_min else None
        self.num_running = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._turnover = Turnover()

    @property
    def is_idle(self) -> bool:
        """Nobody is here."""
        return not self.num_running and not self._queue

    def headers(self, now: float) -> Headers:
        """What is left, for any answer."""
        requests = self.requests.headers("requests", now) if self.requests else ()
        return (*requests, *(self.tokens.headers("tokens", now) if self.tokens else ()))

    def change(self, quota: Quota, now: float) -> None:
        """The policy has another quota for the key: buckets of another size begin full, who is here stays."""
        if quota.requests_per_min != self.quota.requests_per_min:
            self.requests = Bucket(quota.requests_per_min, now) if quota.requests_per_min else None
        if quota.tokens_per_min != self.quota.tokens_per_min:
            self.tokens = Bucket(quota.tokens_per_min, now) if quota.tokens_per_min else None
        self.quota = quota

    def count(self, now: float) -> None:
        """One request more. Raises OverQuota."""
        bucket = self.requests
        if bucket is None:
            return
        if (wait_s := bucket.wait_s(1.0, now)) > 0:
            text = f"This key may send {bucket.most} requests a minute at this edge; try again in {_span(wait_s)}."
            raise OverQuota("requests", text, wait_s, self.headers(now))
        bucket.take(1.0)

    async def place(self, now: float) -> None:
        """A place among those that run, at once or after a short wait. Raises OverQuota."""
        if not self._has_place:
            await in_task()  # a time-out needs one, and making it takes a turn of the loop
        if self._has_place:
            self.num_running += 1
            return
        if len(self._queue) >= min(MAX_QUEUED, self.quota.streams):
            raise self._crowded(now)
        turn, has_place = asyncio.get_running_loop().create_future(), False
        self._queue.append(turn)
        try:
            async with asyncio.timeout(MAX_WAIT_S):
                await turn
            has_place = True
        except TimeoutError:
            raise self._crowded(now + MAX_WAIT_S) from None
        finally:
            if not has_place:
                self._turn_down(turn)

    def leave(self, stay_s: float) -> None:
        """One that ran is over; who waits longest has its place."""
        self._turnover.left(stay_s)
        self._free()

    @property
    def _has_place(self) -> bool:
        most = self.quota.streams
        return not most or (self.num_running < most and not self._queue)

    def _free(self) -> None:
        self.num_running -= 1
        while self._queue and (not self.quota.streams or self.num_running < self.quota.streams):
            turn = self._queue.popleft()
            if not turn.done():
                self.num_running += 1
                turn.set_result(None)

    def _turn_down(self, turn: asyncio.Future[None]) -> None:
        """Its client is gone, or it waited too long: a place that it has just been given goes to the next one."""
        if turn in self._queue:
            self._queue.remove(turn)
        elif turn.done() and not turn.cancelled():
            self._free()

    def _crowded(self, now: float) -> OverQuota:
        most = self.quota.streams
        wait_s = self._turnover.wait_s((len(self._queue) + 1) / most)
        text = f"This key may have {most} requests at once at this edge; try again in {_span(wait_s)}."
        return OverQuota("requests", text, wait_s, self.headers(now))

    def reserve(self, amount: int, now: float) -> int:
        """Tokens for one request. Raises OverQuota."""
        bucket = self.tokens
        if bucket is None:
            return 0
        amount = min(amount, bucket.most)
        if (wait_s := bucket.wait_s(amount, now)) > 0:
            left = max(0, int(bucket.level(now)))
            text = f"This key may use {bucket.most} tokens a minute at this edge; {left} are left, and this request "
            text += f"may use {amount}. Try again in {_span(wait_s)}, or with a lower max_tokens."
            raise OverQuota("tokens", text, wait_s, self.headers(now))
        bucket.take(amount)
        return amount


class Use:
    """One request's use of its key's quota; what it hears of the answer says what is paid in the end."""

    def __init__(self, account: Account, ask: Ask, reserved: int, headers: Headers, now: float) -> None:
        self.headers = headers
        self._account = account
        self._prompt_tokens = ask.prompt_tokens
        self._reserved = reserved
        self._since = now
        self._counted: int | None = None
        self._num_events = 0

    def heard(self, head: ResponseHead) -> None:
        """The head of an answer: of a whole one it has the node's count."""
        said = head.get(TOKENS)
        if said is not None:
            self._counted = sum(int(each) for each in said.split(" ")[:2] if each.isdecimal())

    def saw(self, block: bytes) -> None:
        """Events on their way to the client; behind the last is the node's receipt."""
        self._num_events += block.count(b"data:")
        at = block.rfind(NODE_RECEIPT)
        receipt = parse_receipt(block[at : block.find(b"\n", at)]) if at >= 0 else None
        if receipt is not None:
            counts = receipt.get("prompt_tokens"), receipt.get("completion_tokens")
            self._counted = sum(each for each in counts if isinstance(each, int))

    def end(self, status: int, now: float) -> None:
        """Pay: what was counted; of an answer that broke off its events; nothing for a refusal."""
        used = self._counted
        if used is None:
            used = 0 if status >= ERRORS else self._prompt_tokens + self._num_events
        if self._account.tokens is not None:
            self._account.tokens.level(now)
            self._account.tokens.take(used - self._reserved)
        self._account.leave(now - self._since)


class Quotas:
    """The accounts of keys that have a quota."""

    def __init__(self, max_accounts: int = MAX_KEYS) -> None:
        self._max_accounts = max_accounts
        self._accounts: OrderedDict[str, Account] = OrderedDict()

    def __len__(self) -> int:
        return len(self._accounts)

    async def enter(self, digest: str, quota: Quota, ask: Ask, now: float) -> Use:
        """Begin on a request; `end` of what comes back is the caller's to call. Raises OverQuota."""
        account = self._account(digest, quota, now)
        account.count(now)
        await account.place(now)
        now = asyncio.get_running_loop().time()
        try:
            reserved = account.reserve(ask.prompt_tokens + ask.answer_tokens, now)
        except OverQuota:
            account.leave(0.0)
            raise
        return Use(account, ask, reserved, account.headers(now), now)

    def _account(self, digest: str, quota: Quota, now: float) -> Account:
        """The key's; a new one where there is none, or where its quota has another size."""
        account = self._accounts.get(digest)
        if account is None:
            account = self._accounts[digest] = Account(quota, now)
        elif account.quota != quota:
            account.change(quota, now)
        self._accounts.move_to_end(digest)
        if len(self._accounts) > self._max_accounts:
            self._forget()
        return account

    def _forget(self) -> None:
        """The one that is idle the longest: it is full again by then."""
        for digest, account in self._accounts.items():
            if account.is_idle:
                del self._accounts[digest]
                return


def _span(seconds: float) -> str:
    """As OpenAI writes it: 120ms, 1.5s, 6m0s."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(seconds, MINUTE_S)
    return f"{int(minutes)}m{int(rest)}s" if minutes else f"{rest:.3g}s"
