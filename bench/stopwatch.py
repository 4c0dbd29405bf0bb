"""A client that holds a stopwatch goes before what it times on the processors that both share.

Its own turn to run comes after the answer's bytes: where the engine's threads have every processor, that is the
machine's time and not the platform's, up to milliseconds of it. A client has a machine of its own in life.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

PRIORITY = 1  # of real-time threads the least, and before all that are none


@contextmanager
def goes_first() -> Iterator[None]:
    """The calling thread is scheduled at once while this is open, if the host lets it; what it starts is not."""
    usual = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(PRIORITY))
    except PermissionError:
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, *usual)
