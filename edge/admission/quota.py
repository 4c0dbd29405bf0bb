"""What one key may use at this edge: requests and tokens a minute, and requests at once.

A request reserves what it may use, its prompt by an estimate and `max_tokens`, and pays when it is over for what the
node counted. Counts are this edge's own, however many processes it is: a key that uses several edges has its quota at
each.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from edge.admission.account import Account, OverQuota
from edge.admission.ledger import OwnLedger
from edge.admission.rate import MAX_KEYS
from regions.map.headers import TOKENS
from wire.timing import parse_receipt

if TYPE_CHECKING:
    from edge.admission.ledger import Ledger
    from regions.ask import Ask
    from regions.map.policy import Quota
    from wire.http.http1 import Headers, ResponseHead

NODE_RECEIPT: Final = b': nearfield {"hop": "node"'
ERRORS: Final = 400


class Use:
    """One request's use of its key's quota; what it hears of the answer says what is paid in the end.

    With `has_waited` it had to wait for a place: its key wants more than it may have.
    """

    def __init__(
        self,
        account: Account,
        ask: Ask,
        reserved: int,
        headers: Headers,
        now: float,
        *,
        has_waited: bool = False,
    ) -> None:
        self.headers = headers
        self.has_waited = has_waited
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
        self._account.pay(used - self._reserved, now)
        self._account.leave(now - self._since)


class Quotas:
    """The accounts of keys that have a quota."""

    def __init__(self, max_accounts: int = MAX_KEYS, ledger: Ledger | None = None) -> None:
        self._max_accounts = max_accounts
        self._ledger: Ledger = ledger or OwnLedger()
        self._accounts: OrderedDict[str, Account] = OrderedDict()

    def __len__(self) -> int:
        return len(self._accounts)

    async def enter(self, digest: str, quota: Quota, ask: Ask, now: float) -> Use:
        """Begin on a request; `end` of what comes back is the caller's to call. Raises OverQuota."""
        account = self._account(digest, quota)
        account.count(now)
        has_waited = await account.place(now)
        now = asyncio.get_running_loop().time()
        try:
            reserved = account.reserve(ask.prompt_tokens + ask.answer_tokens, now)
        except OverQuota:
            account.leave(0.0)
            raise
        return Use(account, ask, reserved, account.headers(now), now, has_waited=has_waited)

    def _account(self, digest: str, quota: Quota) -> Account:
        """The key's. Where the policy has another quota for it, who is here stays."""
        account = self._accounts.get(digest)
        if account is None:
            account = self._accounts[digest] = Account(digest, quota, self._ledger)
        account.quota = quota
        self._accounts.move_to_end(digest)
        if len(self._accounts) > self._max_accounts:
            self._forget()
        return account

    def _forget(self) -> None:
        """The one that is idle the longest: it is full again by then."""
        for digest, account in self._accounts.items():
            if account.is_idle:
                del self._accounts[digest]
                self._ledger.drop(digest)
                return
