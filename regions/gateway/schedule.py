"""The hours in which a model wants to be awake, as its `model.toml` says them. Pure; all times are UTC.

`08:00-18:00` is every day, `mon-fri 08:00-18:00` and `sat,sun 10:00-12:00` are some; `22:00-02:00` ends the day after.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_MIN: Final = 24 * 60
WEEK_MIN: Final = 7 * DAY_MIN
_WINDOW: Final = re.compile(r"(?:([a-z,-]+) )?(\d\d):(\d\d)-(\d\d):(\d\d)")


@dataclass(frozen=True, slots=True)
class Window:
    """Minutes of a week: from each of `starts` on, `length` of them."""

    starts: tuple[int, ...]
    length: int

    def holds(self, minute: int) -> bool:
        """Whether a minute of the week (0 is Monday 00:00) is in it."""
        return any((minute - start) % WEEK_MIN < self.length for start in self.starts)


@lru_cache(1024)
def window(text: str) -> Window:
    """The window in a text that matches `weights_cache.model.revision.PREWARM`. Raises ValueError for any other."""
    found = _WINDOW.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no window of hours")
    first, last = (int(found[at]) * 60 + int(found[at + 1]) for at in (2, 4))
    return Window(tuple(day * DAY_MIN + first for day in _days(found[1])), (last - first) % DAY_MIN)


def _days(text: str | None) -> tuple[int, ...]:
    """Numbers of the days: `None` is all of them, `fri-mon` goes over the week's end."""
    if text is None:
        return tuple(range(7))
    if "-" not in text:
        return tuple(DAYS.index(name) for name in text.split(","))
    first, last = (DAYS.index(name) for name in text.split("-"))
    return tuple((first + step) % 7 for step in range((last - first) % 7 + 1))


def is_due(windows: Iterable[str], now: datetime) -> bool:
    """Whether `now` (UTC) is in one of the windows."""
    minute = now.weekday() * DAY_MIN + now.hour * 60 + now.minute
    return any(window(text).holds(minute) for text in windows)
