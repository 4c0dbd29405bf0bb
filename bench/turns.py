"""What turns between tenants cost the engine's scheduler: processor time of a step, against first come, first served.

The scheduler is the engine's own, without a model: a step is planned, and its tokens are handed in at once. The peer is
the same scheduler with one list of who waits in the place of `engine.steps.tenants`. Both in turns, round by round.
"""

from __future__ import annotations

from bisect import insort
from time import process_time
from typing import TYPE_CHECKING

from bench.rows import Row, compare, middle
from inference.engine.orders.asked import Generate
from inference.engine.steps.pace import Pace
from inference.engine.steps.scheduler import Scheduler
from inference.engine.steps.tenants import RANK, Tenant, Tenants

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

    from inference.engine.steps.rows import Row as Request

NUM_REQUESTS = 150
PROMPT_TOKENS, ANSWER_TOKENS = 32, 32
NUM_STREAMS = (1, 16)  # slots; twice as many requests are there at any time
STEP_S = 0.005
US = 1e6


class FirstCome(Tenants):
    """Requests by rank alone, whoever sent them."""

    def __init__(self) -> None:
        super().__init__()
        self._list: list[Request] = []
        self._all = self._here[""] = Tenant("", 0.0)

    @property
    def waiting(self) -> Iterator[Request]:
        """Every row without a slot."""
        return iter(self._list)

    def join(self, row: Request) -> None:
        """A new request waits."""
        row.account = self._all
        self.stop(row)

    def start(self, row: Request) -> None:
        """It gets a slot."""
        self._list.remove(row)
        self.num_waiting -= 1

    def stop(self, row: Request) -> None:
        """It waits."""
        insort(self._list, row, key=RANK)
        self.num_waiting += 1

    def leave(self, row: Request, *, is_waiting: bool) -> None:
        """It is done, or given up."""
        if is_waiting:
            self.start(row)

    def in_turn(self) -> Iterator[Request]:
        """Who waits, by rank."""
        return iter(self._list)

    def ordered(self, rows: Sequence[Request]) -> list[Request]:
        """Some rows by rank."""
        return sorted(rows, key=RANK)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--rounds", type=int, default=9, help="of each of the schedulers, in turns (9)")


def measure(options: argparse.Namespace, say: Callable[[str], None]) -> tuple[list[Row], list[str]]:
    """Rows and notes."""
    rows = []
    for num_slots in NUM_STREAMS:
        for num_tenants in (1, 8):
            what = f"scheduling a step of {num_slots} streams, {num_tenants} tenants, against first come, first served"
            pairs = [
                (step_us(Tenants, num_slots, num_tenants), step_us(FirstCome, num_slots, num_tenants))
                for _ in range(options.rounds)
            ]
            ours, peer = middle(pairs)
            say(f"{what}: {ours:.1f} us against {peer:.1f}")
            rows.append(compare(what, ours, peer, "us", better="lower"))
    return rows, [
        f"{NUM_REQUESTS} requests of {PROMPT_TOKENS} tokens, {ANSWER_TOKENS} back, twice as many here as slots",
        f"processor time of plan, commit, arrivals and ends; of {options.rounds} rounds in turns the middle one",
    ]


def step_us(turns: type[Tenants], num_slots: int, num_tenants: int) -> float:
    """Microseconds of processor time a step, over all of the requests."""
    one = Scheduler(num_slots, frozenset(), pace=Pace())
    one._tenants = turns()  # noqa: SLF001 - the one thing that the two have not in common
    orders = [
        Generate(str(number), tuple(range(PROMPT_TOKENS)), ANSWER_TOKENS, tenant=f"t{number % num_tenants}")
        for number in range(NUM_REQUESTS)
    ]
    orders.reverse()
    now, num_steps, began = 0.0, 0, process_time()
    while orders or not one.is_idle:
        while orders and one.num_running + one.num_waiting < 2 * num_slots:
            one.add(orders.pop(), now)
        one.preempt(now)
        step = one.plan(now)
        now += STEP_S
        one.commit(step, {part.id: 5 for part in step if part.samples}, now, STEP_S)
        num_steps += 1
    return (process_time() - began) / num_steps * US
