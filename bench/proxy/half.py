"""The delay that a proxy adds at half load, by each reading of "half", with nginx's and the machine's own beside it.

Half busy: the rate at which its process has half of its core, found by tries. Half of the most: `wrk` on 32 connections
has its answers in batches, in which a request costs half of what one by itself does; so at half of that rate our
process is not half busy but 0.7 to 0.85. At both, straight to the origin, nginx and ours in turns, each alone and at
the same rate: a proxy adds what straight answers of its round did not take. Older figures are of a third way, kept
here: with a quarter as many straight ones in between, so client and origin had 1.25 times that load.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from bench.proxy import load
from bench.proxy.paced import Paced, paced
from bench.proxy.stage import Proxy, cores
from bench.rows import Row, compare, quantile

BUDGETS_MS = (("p50", 0.5, 0.3), ("p99", 0.99, 2.0))  # the issue's
NUM_CONNECTIONS = 256
MOST_CONNECTIONS = 32  # of the closed loop that finds the most
NUM_ROUNDS = 5  # of each in turn, of which the middle is told
PER_STRAIGHT = 4  # requests to a proxy for one straight to the origin, where both are sent at once
HALF = 0.5
NUM_TRIES, TRY_S = 4, 1.0  # of a rate: what a request costs differs less from each to the next
LIMIT = ", so the machine is the limit"
LEAST_MS = 1e-3  # a difference of nothing is this, not a division by zero


@dataclass(frozen=True, slots=True)
class Stand:
    """Ours, nginx, the origin with nothing before it, and the region that says rows; each slice takes `seconds`."""

    mine: Proxy
    other: Proxy
    straight: Proxy
    region: Proxy
    seconds: float


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds of each answer through a proxy and of each straight one; how busy the proxy's process was, and how long
    it stood in line for its core, of the time.
    """

    took_s: Sequence[float]
    straight_s: Sequence[float]
    busy: float
    in_line: float

    @classmethod
    def of(cls, one: Paced, proxy: Proxy, straight_s: Sequence[float]) -> "Round":
        """One slice, whose first proxy is `proxy`."""
        return cls(one.took_s[proxy], straight_s, one.used_s / one.lasted_s, one.queued_s / one.lasted_s)

    def added_ms(self, share: float) -> float:
        """By that quantile of both."""
        return 1000 * (quantile(self.took_s, share) - quantile(self.straight_s, share))


def rows(stand: Stand, scratch: Path) -> list[Row]:
    """Of all three ways. Raises: Missing, Wrong."""
    half = load.blast(stand.mine, scratch, MOST_CONNECTIONS, stand.seconds / 2).per_s / 2
    with ahead(
        [pid for each in (stand.straight, stand.region, stand.mine, stand.other) for pid in each.pids]
    ):
        busy = half_busy(stand.mine, half)
        return [
            *_in_turns(stand, busy, f"half busy ({busy:.0f} requests a second)"),
            *_in_turns(stand, half, f"half of the most in batches ({half:.0f} requests a second)"),
            *_at_once(stand, half),
        ]


@contextmanager
def ahead(pids: Sequence[int]) -> Iterator[None]:
    """This thread and those processes go before all others on their cores, where the system lets us.

    Client, origin and region stand for other machines, which share no core. A proxy has one, as it is given one where
    its delay matters: what else runs there is the machine's (on an idle one `kdamond`, 7 ms at a time, and what started
    the bench), 1 to 2 % of the time, and p99 was made of that, for nginx as for ours.
    """
    apart = cores()[0] != cores()[1]
    raised = [pid for pid in (0, *pids) if apart and os.sched_getscheduler(pid) == os.SCHED_OTHER]
    least = os.sched_param(os.sched_get_priority_min(os.SCHED_RR))
    try:
        for pid in raised:
            os.sched_setscheduler(pid, os.SCHED_RR, least)
    except PermissionError:
        raised = []  # of the first: who may not raise one may raise none
    try:
        yield
    finally:
        for pid in raised:
            os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))


def half_busy(proxy: Proxy, rate: float) -> float:
    """Requests a second at which its process has half of a core's time, from a first guess. Raises: Wrong."""
    for _ in range(NUM_TRIES):
        tried = _slice((proxy,), rate, TRY_S)
        rate *= HALF * tried.lasted_s / tried.used_s
    return rate


def added(rounds: Sequence[Round], name: str, what: str, target: float | None) -> list[Row]:
    """Against the issue's budgets."""
    return [
        _row(rounds, f"added by {name}, {part}, {what}", share, budget_ms, target)
        for part, share, budget_ms in BUDGETS_MS
    ]


def _row(rounds: Sequence[Round], what: str, share: float, budget_ms: float, target: float | None) -> Row:
    """Middle of the rounds: one pause of the whole machine, of some 15 ms, is the latest 1 % of three seconds.

    Where straight answers alone take longer than the budget, it is not held, however little is added to them.
    """
    all_ms = sorted(each.added_ms(share) for each in rounds)
    straight_ms = 1000 * median(quantile(each.straight_s, share) for each in rounds)
    limit = LIMIT if straight_ms > budget_ms else ""
    busy, in_line = median(each.busy for each in rounds), median(each.in_line for each in rounds)
    told = (
        f"{what}, its process {busy:.2f} busy and {in_line:.2f} in line for its core; straight answers took "
        f"{straight_ms:.2g} ms{limit}; middle of {len(rounds)} rounds ({all_ms[0]:.2g} to {all_ms[-1]:.2g} ms)"
    )
    middle_ms = max(LEAST_MS, median(all_ms))
    row = compare(f"{told}, against the budget", middle_ms, budget_ms, "ms", better="lower", target=target)
    return replace(row, holds=row.holds and (target is None or not limit))


def _slice(turns: Sequence[Proxy], rate: float, seconds: float) -> Paced:
    return paced(turns, rate, seconds, NUM_CONNECTIONS)


def _in_turns(stand: Stand, rate: float, what: str) -> list[Row]:
    """One after the other in each round."""
    found: dict[Proxy, list[Round]] = {stand.other: [], stand.mine: []}
    for _ in range(NUM_ROUNDS):
        straight_s = _slice((stand.straight,), rate, stand.seconds).took_s[stand.straight]
        for proxy, rounds in found.items():
            rounds.append(Round.of(_slice((proxy,), rate, stand.seconds), proxy, straight_s))
    return _both(stand, found, what)


def _both(stand: Stand, found: dict[Proxy, list[Round]], what: str) -> list[Row]:
    return [
        *added(found[stand.mine], stand.mine.name, what, 1.0),
        *added(found[stand.other], stand.other.name, what, None),
    ]


def _at_once(stand: Stand, rate: float) -> list[Row]:
    """`rate` to a proxy and a quarter as many straight ones in the same slice, and what that client was itself."""
    found: dict[Proxy, list[Round]] = {stand.mine: [], stand.other: []}
    clients = []
    for _ in range(NUM_ROUNDS):
        for proxy, rounds in found.items():
            turns = (proxy,) * PER_STRAIGHT + (stand.straight,)
            one = _slice(turns, rate * len(turns) / PER_STRAIGHT, stand.seconds)
            rounds.append(Round.of(one, proxy, one.took_s[stand.straight]))
            clients.append(one)
    what = f"half of the most in batches ({rate:.0f} requests a second) and a quarter as many straight ones at once"
    return [*_both(stand, found, what), *_client(clients, stand.straight)]


def _client(slices: Sequence[Paced], straight: Proxy) -> list[Row]:
    """Whether the client was what they waited for."""
    late_ms, straight_ms = (
        1000 * median(quantile(times, 0.99) for times in each)
        for each in ([one.late_s for one in slices], [one.took_s[straight] for one in slices])
    )
    busy_s, lasted_s = sum(one.busy_s for one in slices), sum(one.lasted_s for one in slices)
    late = "the client at once with straight ones, p99: sent late, against an answer straight from the origin"
    busy = "the client at once with straight ones: how busy, of its time"
    return [
        compare(late, late_ms, straight_ms, "ms", better="lower"),
        compare(busy, busy_s, lasted_s, "s", better="lower"),
    ]
