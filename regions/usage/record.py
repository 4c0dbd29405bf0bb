"""One request at one engine, as a node wrote it down: an object's line becomes a frozen value once, at this wall."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ANSWERED: Final = frozenset({"finished", "stopped"})  # to its end
USED: Final = ANSWERED | {"cancelled"}  # its client left: what it had by then was used
LOST: Final = frozenset({"failed", "worker_lost", "node_lost"})
GENERATING: Final = frozenset({"chat", "text_completion"})
OUTSIDE: Final = "outside-"
"""Before the log's name of a request that an external engine answered: there is no such log."""


class RecordError(ValueError):
    """A line of an object under `usage/` that is none of a node's."""


@dataclass(frozen=True, slots=True)
class Record:
    """`attempt` is its own in its node; `number` says which of the edge's tries it was, from 0.

    `device_us`: its share of the steps' wall time; of an external engine the request's wall time. `computed` and
    `sampled` tokens are the engine's, the others the answer's. `orders`: the first, and how many.
    """

    attempt: str
    request: str
    number: int
    tenant: str
    key: str
    region: str
    node: str
    model: str
    revision: str
    kind: str
    engine: str
    log: str
    orders: tuple[int, int]
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    computed_tokens: int
    sampled_tokens: int
    device_us: int
    start: float
    end: float
    outcome: str
    resumed_tokens: int = 0
    """Of the completion: sampled by an earlier attempt, whose stream broke off."""

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Record:
        """The record in a parsed line. Raises RecordError."""
        try:
            found = cls(**{_NAMES.get(name, name): _read(name, each) for name, each in value.items()})
        except (TypeError, ValueError, KeyError) as cause:
            raise RecordError(f"no usage record: {cause}") from cause
        if found.outcome not in USED | LOST:
            raise RecordError(f"no usage record: its outcome is {found.outcome[:40]!r}")
        return found

    @property
    def is_ours(self) -> bool:
        """Whether an engine of ours answered it, which has a log of its own."""
        return not self.log.startswith(OUTSIDE)

    def order_ids(self) -> list[str]:
        """Its orders in that log."""
        first, num = self.orders
        return [str(number) for number in range(first, first + num)]


_NAMES: Final = {"try": "number"}
_COUNTS: Final = frozenset(
    {"try", "device_us"}
    | {f"{kind}_tokens" for kind in ("prompt", "cached", "completion", "resumed", "computed", "sampled")}
)


def _read(name: str, value: object) -> Any:
    if name == "orders":
        first, num = (_count(each) for each in value) if isinstance(value, list) else (-1, -1)
        return (first, num) if num > 0 else _count(-1)
    if name in _COUNTS:
        return _count(value)
    if name in {"start", "end"}:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else _count(-1)
    if not isinstance(value, str):
        raise TypeError(f"{name} is no text")
    return value


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError("a count is a whole number, and not below 0")
    return value


def read_records(data: bytes) -> list[Record]:
    """The records of an object. Raises RecordError."""
    return records_of(_values(data))


def records_of(values: Iterable[Mapping[str, Any]]) -> list[Record]:
    """The same of parsed lines. Raises RecordError."""
    return [Record.of(value) for value in values]


def _values(data: bytes) -> Iterable[Mapping[str, Any]]:
    try:
        return [json.loads(line) for line in data.splitlines() if line]
    except ValueError as cause:
        raise RecordError(f"no usage record: {cause}") from cause
