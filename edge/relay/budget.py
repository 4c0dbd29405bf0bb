"""How many requests may be asked again: a share of those that came, and a few a second. Pure; time is an argument.

A region's failure must not multiply the load of the others. Finagle's figures (`RetryBudget`: 20 % of the requests of
the last 10 s and 10 a second), one budget for each model of an edge, and nobody behind the edge repeats anything.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

SHARE: Final = 0.2  # of requests
LEAST_PER_S: Final = 10.0  # so that a model with few requests is replayed at all
WINDOW_S: Final = 10.0  # what is not used within it is forgotten
MAX_MODELS: Final = 4096  # a row holds about as many; the least recently asked for is forgotten


class Budget:
    """Of one model. `num_requests` is counted up by who sends them: the cheapest thing an ordinary one can cost."""

    __slots__ = ("_at", "_least_per_s", "_left", "num_requests")

    def __init__(self, now: float, least_per_s: float = LEAST_PER_S) -> None:
        self.num_requests = 0  # since the last look
        self._least_per_s = least_per_s
        self._left = least_per_s * WINDOW_S
        self._at = now

    def has_one(self, now: float) -> bool:
        """Whether a request may be asked again at `now` (monotonic seconds)."""
        self._look(now)
        return self._left >= 1.0

    def take(self, now: float) -> bool:
        """The same, and it is."""
        if not self.has_one(now):
            return False
        self._left -= 1.0
        return True

    def wait_s(self, now: float) -> float:
        """Seconds until one may be, if no other request came."""
        self._look(now)
        return max(0.0, (1.0 - self._left) / self._least_per_s)

    def _look(self, now: float) -> None:
        """What came since the last look goes in, and what is older than the window goes out."""
        passed_s = now - self._at
        recent = self.num_requests * (WINDOW_S / passed_s if passed_s > WINDOW_S else 1.0)
        kept = self._left * max(0.0, 1.0 - passed_s / WINDOW_S)
        self._left = kept + SHARE * recent + self._least_per_s * min(passed_s, WINDOW_S)
        self._at, self.num_requests = now, 0


class Budgets:
    """One for each model, a bounded number; an edge of several processes has a part of `least_per_s` in each."""

    def __init__(self, max_models: int = MAX_MODELS, least_per_s: float = LEAST_PER_S) -> None:
        self._max_models = max_models
        self._least_per_s = least_per_s
        self._budgets: OrderedDict[str, Budget] = OrderedDict()

    def __len__(self) -> int:
        return len(self._budgets)

    def of(self, model: str, now: float, *, is_new: bool = True) -> Budget:
        """The budget of `model`, with this request counted if it is a new one."""
        budget = self._budgets.get(model)
        if budget is None:
            budget = self._budgets[model] = Budget(now, self._least_per_s)
            if len(self._budgets) > self._max_models:
                self._budgets.popitem(last=False)
        budget.num_requests += is_new
        return budget
