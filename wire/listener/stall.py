"""A peer that takes its bytes too slowly, or not at all, seen by looking now and then. Pure."""


class Stall:
    """From the moment when `unsent` bytes were too many; `now` in seconds of one clock."""

    __slots__ = ("_began", "_moved", "_owed", "_unsent")

    def __init__(self, unsent: int, now: float) -> None:
        self._owed = self._unsent = unsent
        self._began = self._moved = now

    def too_slow(self, unsent: int, now: float, stall_s: float, bytes_per_s: float) -> bool:
        """Whether nothing was taken for `stall_s`, or over more than that less than `bytes_per_s`."""
        if unsent != self._unsent:
            self._unsent, self._moved = unsent, now
        took_s = now - self._began
        is_slow = self._owed - unsent < bytes_per_s * took_s
        return now - self._moved > stall_s or (is_slow and took_s > stall_s)
