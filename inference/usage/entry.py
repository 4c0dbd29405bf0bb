"""One request at an engine, as it is written down: opened, answered, and what the engine says that it cost."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from inference.usage.meter import Account

if TYPE_CHECKING:
    from collections.abc import Callable

    from inference.usage.book import Line

FINISHED: Final = "finished"  # answered to its end
STOPPED: Final = "stopped"  # so too: one of the request's own stop strings ended it
CANCELLED: Final = "cancelled"  # its client left
FAILED: Final = "failed"  # it, or we, were at fault
WORKER_LOST: Final = "worker_lost"  # its engine died
NODE_LOST: Final = "node_lost"  # its node died
OUTCOMES: Final = {"": FINISHED, "client_gone": CANCELLED, "worker_lost": WORKER_LOST}
"""By the code of what ended a request; any other code is FAILED."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Tokens as the answer's usage has them, or would have had."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    resumed: int = 0
    """Of the completion, what an earlier attempt had told the client: no engine of this one sampled it."""


@dataclass(frozen=True, slots=True)
class Who:
    """Whose request it is, as the edge says. `attempt`: of its tries at regions, 0 for the first."""

    request_id: str
    tenant: str = ""
    key: str = ""
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class What:
    """What answers it. `engine` is the operator's name of it, ours is `own`."""

    model: str
    revision: str
    kind: str
    engine: str


class Entry:
    """One request. `sent` when its orders go out, `answered` before its last byte does, `cost` for each order.

    An attempt is named after its engine's log and its first order there: that is what reconciling goes by.
    """

    def __init__(
        self, who: Who, what: What, num_prompt: int, write: Callable[[Line], Any],
        now: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._facts: Line = {
            "request": who.request_id,
            "try": who.attempt,
            "tenant": who.tenant,
            "key": who.key,
            "model": what.model,
            "revision": what.revision,
            "kind": what.kind,
            "engine": what.engine,
        }
        self._num_prompt, self._write, self._now = num_prompt, write, now
        self._attempt = ""
        self._waiting: set[str] = set()
        self._computed = self._sampled = self._us = 0
        self._is_answered = False
        self.counts: Callable[[], Counts] = lambda: Counts(num_prompt)
        """The tokens so far, for a request that does not come to its end."""

    @property
    def is_open(self) -> bool:
        """Whether something of it is still to be written."""
        return bool(self._attempt) and not (self._is_answered and not self._waiting)

    @property
    def attempt(self) -> str:
        """Its name; empty before it is sent."""
        return self._attempt

    def sent(self, log_name: str, order_ids: list[str]) -> None:
        """Its orders go to an engine, which has a log of that name; consecutive numbers."""
        self._attempt = f"{log_name}:{order_ids[0]}"
        self._waiting = set(order_ids)
        places = {"log": log_name, "orders": [int(order_ids[0]), len(order_ids)]}
        facts = {"start": round(self._now(), 3), "prompt_tokens": self._num_prompt}
        self._write({"line": "open", "attempt": self._attempt, **self._facts, **places, **facts})

    def answered(self, outcome: str, counts: Counts) -> None:
        """It came to its end. The first word counts: an answer that is out is not cancelled any more."""
        if not self._attempt or self._is_answered:
            return
        self._is_answered = True
        tokens = {
            "prompt_tokens": counts.prompt,
            "cached_tokens": counts.cached,
            "completion_tokens": counts.completion,
            "resumed_tokens": counts.resumed,
        }
        end = {"outcome": outcome, "end": round(self._now(), 3)}
        self._write({"line": "answer", "attempt": self._attempt, **tokens, **end})

    def ended(self, error: str) -> None:
        """It is over, by an error of this code or by none."""
        self.answered(OUTCOMES.get(error, FAILED), self.counts())

    def cost(self, order_id: str, account: Account) -> None:
        """The engine has ended one of its orders."""
        if order_id not in self._waiting:
            return
        self._waiting.discard(order_id)
        self._computed += account.computed
        self._sampled += account.sampled
        self._us += account.us
        if not self._waiting:
            self._write(account_line(self._attempt, Account(self._computed, self._sampled, self._us)))

    def lost(self, told: Callable[[str], Account]) -> None:
        """Its engine is gone: what its orders cost is in the engine's log."""
        for order_id in sorted(self._waiting):
            self.cost(order_id, told(order_id))


def account_line(attempt: str, account: Account) -> Line:
    """What an attempt cost."""
    costs = {
        "computed_tokens": account.computed,
        "sampled_tokens": account.sampled,
        "device_us": account.us,
    }
    return {"line": "account", "attempt": attempt, **costs}
