"""What was used, by tenant, key, model and day: each request once, however often it was tried. Pure.

Rule 1: a record is known by its node and attempt; the same one in two objects is one.
Rule 2: of a request's attempts the one counts that was answered to its end, of several the last; else the last one.
Rule 3: tokens count if the request was answered, or its client left; those of failed and lost ones do not.
Rule 4: the time of every attempt that does not count is wasted, and said apart.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from regions.usage.record import ANSWERED, USED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from regions.usage.record import Record

BY: Final = ("tenant", "key", "model", "day")


@dataclass(slots=True)
class Sum:
    """Of some requests. Microseconds, so that sums are exact."""

    requests: int = 0
    failed_requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    device_us: int = 0
    wasted_us: int = 0

    def add(self, other: Sum) -> None:
        """Add another one."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


def once(records: Iterable[Record]) -> list[Record]:
    """Each record once."""
    return list({(each.node, each.attempt): each for each in records}.values())


def counting(attempts: Iterable[Record]) -> Record:
    """The attempt of one request that its user was answered by."""
    return max(
        attempts,
        key=lambda each: (each.outcome in ANSWERED, each.number, each.start, each.attempt, each.node),
    )


def sums(records: Iterable[Record], by: Iterable[str] = BY) -> Mapping[tuple[str, ...], Sum]:
    """The sums by some of BY, in order."""
    requests: dict[str, list[Record]] = defaultdict(list)
    for record in once(records):
        requests[record.request].append(record)
    found: dict[tuple[str, ...], Sum] = defaultdict(Sum)
    names = tuple(by)
    for attempts in requests.values():
        chosen = counting(attempts)
        others_us = sum(each.device_us for each in attempts if each is not chosen)
        found[tuple(_field(chosen, name) for name in names)].add(_sum(chosen, others_us))
    return dict(sorted(found.items()))


def _sum(chosen: Record, others_us: int) -> Sum:
    if chosen.outcome not in USED:
        return Sum(failed_requests=1, wasted_us=others_us + chosen.device_us)
    tokens = chosen.prompt_tokens, chosen.cached_tokens, chosen.completion_tokens
    return Sum(1, 0, *tokens, chosen.device_us, others_us)


def _field(record: Record, name: str) -> str:
    return day_of(record.start) if name == "day" else str(getattr(record, name))


def day_of(unix_s: float) -> str:
    """The day in UTC, YYYY-MM-DD."""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d")
