"""What a command's exit status means; `nearfield --help` and docs/cli.md say it from here."""

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
    INTERRUPTED = 130

    @property
    def words(self) -> str:
        """For people."""
        return _WORDS[self]


_WORDS = {
    Exit.OK: "done",
    Exit.FAILED: "failed",
    Exit.USAGE: "wrong usage",
    Exit.NOT_FOUND: "not found",
    Exit.NOT_READY: "not ready",
    Exit.TIMEOUT: "timed out",
    Exit.GATE_FAILED: "a gate failed",
    Exit.REFUSED: "the push was refused",
    Exit.INTERRUPTED: "ended by Ctrl-C",
}
