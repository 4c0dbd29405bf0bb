"""How far a load is."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a load is. `eta_s` is None until something landed."""

    done_bytes: int
    total_bytes: int
    eta_s: float | None

    @property
    def percent(self) -> float:
        """0..100."""
        return 100.0 * self.done_bytes / self.total_bytes if self.total_bytes else 100.0


OnProgress = Callable[[Progress], None]
"""Told of a load's progress, by the thread that made it."""
