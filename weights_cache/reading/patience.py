"""How long a store that fails is asked again, and how soon. No I/O."""

import random

NUM_BAD_TRIES = 3  # the same wrong bytes three times: the object itself is wrong
RETRY_FOR_S = 15.0  # a store that is killed and restarted is back within seconds
STALL_S = 10.0  # no byte for this long: the store is stuck, another connection may do better
FIRST_PAUSE_S, LAST_PAUSE_S = 0.05, 1.0  # between tries, doubling, with jitter


def pause_s(attempt: int) -> float:
    """How long to wait after failed try number `attempt` (from 0): doubling, between half and all of it."""
    jitter = random.uniform(0.5, 1.0)  # noqa: S311 - not a secret
    return float(min(LAST_PAUSE_S, FIRST_PAUSE_S * 2**attempt) * jitter)
