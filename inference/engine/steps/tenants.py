"""Turns between tenants, by virtual token counters (Sheng et al., "Fairness in Serving LLMs", OSDI 2024). Plain.

A tenant's counter is the service that it had, divided by its weight: a token of a prompt counts `PROMPT_COST` when it
is first computed, a token of an answer `ANSWER_COST`. Of those who wait the one with the least counter goes next. Who
comes back is lifted to the least counter of those who are here: nobody saves up turns by being away, and nobody pays
for turns that no one else wanted. Within a tenant requests go by rank.

Two tenants who both have requests waiting all the time differ in service, per weight, by at most twice the cost of
what one of them can have in the slots: the paper's bound, and `tests/inference/test_tenants.py` holds it.
"""

from __future__ import annotations

from bisect import insort
from collections import OrderedDict
from heapq import heapify, heappop, heapreplace
from operator import attrgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from inference.engine.steps.rows import Row

PROMPT_COST = 1.0
ANSWER_COST = 2.0
"""A token of an answer costs more than one of a prompt, that is computed beside others; twice, as in the paper."""
MAX_REMEMBERED = 1024
"""Counters of tenants that have no request here. Who is forgotten owes nothing when it comes back."""
RANK = attrgetter("rank")


class Tenant:
    """One tenant's requests: who waits, by rank, and how many have a slot."""

    __slots__ = ("counter", "has_waited", "name", "num_running", "waiting", "weight")

    def __init__(self, name: str, counter: float) -> None:
        self.name = name
        self.counter = counter
        self.weight = 1
        self.has_waited = False
        """Whether the latest of its requests had to wait before it was let in."""
        self.num_running = 0
        self.waiting: list[Row] = []

    def serve(self, cost: float) -> None:
        """It was served: so much is on its account."""
        self.counter += cost / self.weight

    @property
    def num_requests(self) -> int:
        """All of them."""
        return len(self.waiting) + self.num_running

    @property
    def held(self) -> float:
        """Its slots for each unit of its weight."""
        return self.num_running / self.weight


class Tenants:
    """Who is here: the tenants that have a request, waiting or running. Of a single one nothing but rank counts."""

    def __init__(self) -> None:
        self._here: dict[str, Tenant] = {}
        self._gone: OrderedDict[str, float] = OrderedDict()
        self._last_counter = 0.0
        self.num_waiting = 0

    @property
    def is_shared(self) -> bool:
        """Whether there is more than one."""
        return len(self._here) > 1

    @property
    def here(self) -> Iterable[Tenant]:
        """Those that have a request."""
        return self._here.values()

    @property
    def waiting(self) -> Iterator[Row]:
        """Every row without a slot, in no order that means anything."""
        return (row for tenant in self._here.values() for row in tenant.waiting)

    def join(self, row: Row) -> None:
        """A new request waits."""
        tenant = self._here.get(row.order.tenant)
        if tenant is None:
            tenant = self._here[row.order.tenant] = self._arrived(row.order.tenant)
        tenant.weight = row.order.weight
        tenant.has_waited = row.order.has_waited
        row.account = tenant
        self._wait(tenant, row)

    def start(self, row: Row) -> None:
        """It gets a slot."""
        tenant = row.account
        tenant.waiting.remove(row)
        tenant.num_running += 1
        self.num_waiting -= 1

    def stop(self, row: Row) -> None:
        """It gave its slot away and waits again."""
        tenant = row.account
        tenant.num_running -= 1
        self._wait(tenant, row)

    def leave(self, row: Row, *, is_waiting: bool) -> None:
        """It is done, or given up."""
        tenant = row.account
        if is_waiting:
            tenant.waiting.remove(row)
            self.num_waiting -= 1
        else:
            tenant.num_running -= 1
        if not tenant.num_requests:
            self._depart(tenant)

    def in_turn(self) -> Iterator[Row]:
        """Those who wait in the order of their turns; not to be gone on with after a change."""
        if not self.num_waiting:
            return iter(())
        return _in_turn([(tenant, tenant.waiting) for tenant in self._here.values() if tenant.waiting])

    def ordered(self, rows: Sequence[Row]) -> Iterable[Row]:
        """Some rows in the order of turns."""
        if not self.is_shared:
            return sorted(rows, key=RANK)
        own: dict[str, list[Row]] = {}
        for row in sorted(rows, key=RANK):
            own.setdefault(row.account.name, []).append(row)
        return _in_turn([(each[0].account, each) for each in own.values()])

    def share(self, tenant: Tenant, num_slots: int) -> int:
        """Of so many slots those that a tenant has a right to: by weight, and one whoever is here."""
        weights = sum(each.weight for each in self._here.values())
        return max(1, num_slots * tenant.weight // weights)

    def greediest(self, num_slots: int, least: float = 0.0) -> Tenant | None:
        """Of those with such a counter who holds most, by weight, and more than its share of so many slots."""
        served = (each for each in self._here.values() if each.counter >= least)
        over = [each for each in served if each.num_running > self.share(each, num_slots)]
        return max(over, key=attrgetter("held"), default=None)

    def fullest(self, new: Row) -> str:
        """Who is to have one request less when one too many waits: the one with most of them, `new`'s among equals."""
        counts = {
            name: (len(tenant.waiting) / tenant.weight, False)
            for name, tenant in self._here.items()
            if any(not row.num_output for row in tenant.waiting)
        }
        own = self._here.get(new.order.tenant)
        num_own = len(own.waiting) if own else 0
        counts[new.order.tenant] = ((num_own + 1) / new.order.weight, True)
        return max(counts, key=counts.__getitem__)

    def check(self, num_running: int) -> None:
        """The invariants. Raises RuntimeError: a row is counted twice, or not at all."""
        if self.num_waiting != sum(1 for _ in self.waiting):
            raise RuntimeError(f"{self.num_waiting} rows are said to wait, {list(self.waiting)} do")
        if num_running != sum(tenant.num_running for tenant in self._here.values()):
            raise RuntimeError(f"{num_running} rows run, the tenants have others")

    def _wait(self, tenant: Tenant, row: Row) -> None:
        insort(tenant.waiting, row, key=RANK)
        self.num_waiting += 1

    def _arrived(self, name: str) -> Tenant:
        least = min((tenant.counter for tenant in self._here.values()), default=self._last_counter)
        return Tenant(name, max(least, self._gone.pop(name, 0.0)))

    def _depart(self, tenant: Tenant) -> None:
        del self._here[tenant.name]
        self._last_counter = tenant.counter
        self._gone[tenant.name] = tenant.counter
        if len(self._gone) > MAX_REMEMBERED:
            self._gone.popitem(last=False)


def _in_turn(lists: Sequence[tuple[Tenant, Sequence[Row]]]) -> Iterator[Row]:
    """Rows of each tenant in their order; between tenants the least counter first, as if each were served in full.

    Among equals who holds less goes first: one that has just come beside one that fills the slots.
    """
    if len(lists) == 1:
        yield from lists[0][1]
        return
    heap = [
        (tenant.counter, tenant.held, rows[0].rank, number, 0) for number, (tenant, rows) in enumerate(lists)
    ]
    heapify(heap)
    while heap:
        counter, held, _, number, place = heap[0]
        tenant, rows = lists[number]
        row = rows[place]
        yield row
        if place + 1 == len(rows):
            heappop(heap)
            continue
        cost = row.num_uncharged * PROMPT_COST + ANSWER_COST
        served = counter + cost / tenant.weight
        heapreplace(heap, (served, held + 1 / tenant.weight, rows[place + 1].rank, number, place + 1))
