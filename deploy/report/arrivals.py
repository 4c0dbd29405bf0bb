"""When warm requests are sent: at times of their own, not when the one before was answered. Pure.

A client that waits for each answer asks a slow server less often and so measures it kindly (coordinated omission).
These arrivals are a Poisson process; a request's clock starts when it was due, sent or not.
"""

import random
from collections.abc import Iterator

DEFAULT_LOAD = 1.0  # requests under way on average: as many as one client that asks one after another has


def arrivals(num: int, per_s: float, rng: random.Random) -> Iterator[float]:
    """Seconds from now at which each of ``num`` requests is due, ``per_s`` of them a second on average."""
    due_s = 0.0
    for _ in range(num):
        due_s += rng.expovariate(per_s)
        yield due_s


def default_rate(e2e_ms: float) -> float:
    """Requests a second at which `DEFAULT_LOAD` of them are under way, each taking ``e2e_ms``."""
    return DEFAULT_LOAD * 1000 / max(e2e_ms, 1.0)
