"""What a command's exit status means; the same table stands in the README."""

from enum import IntEnum


class Exit(IntEnum):
    """Exit statuses of `nearfield`, for scripts."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    NOT_READY = 4
    TIMEOUT = 5
    GATE_FAILED = 6
    REFUSED = 7
