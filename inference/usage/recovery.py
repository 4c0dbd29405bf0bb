"""What a node that was killed left behind: its requests get the end that they had, from its engines' own logs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from inference.usage.entry import NODE_LOST, account_line
from inference.usage.meter import Account
from inference.usage.own_log import Told, read_log, wait_gone

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from inference.usage.book import Line

GONE_S: Final = 10.0
"""An engine whose node died sees its link closed at its next step."""


def read_dead(folder: Path, names: Iterable[str], timeout_s: float = GONE_S) -> dict[str, Told]:
    """The logs of those engines that are gone; blocks. Raises OSError: one cannot be read."""
    return {name: read_log(folder, name) for name in names if wait_gone(folder, name, timeout_s)}


def last_lines(left: Iterable[Mapping[str, Line]], told: Mapping[str, Told]) -> Iterator[Line]:
    """The missing lines of requests whose engine is gone. One without an answer was not answered to its end.

    Its completion tokens are those that the engine sampled: how many of them its client had seen nobody knows.
    """
    for lines in left:
        opened = lines["open"]
        attempt, dead = opened["attempt"], told.get(opened["log"])
        if dead is None:
            continue
        first, num = opened["orders"]
        accounts = [dead.of(str(number)) for number in range(first, first + num)]
        costs = zip(*((each.computed, each.sampled, each.us) for each in accounts), strict=True)
        account = Account(*map(sum, costs))
        if "answer" not in lines:
            yield _lost(opened, account)
        yield account_line(attempt, account)


def _lost(opened: Line, account: Account) -> Line:
    tokens = {"prompt_tokens": opened["prompt_tokens"], "cached_tokens": 0, "resumed_tokens": 0}
    end = {"outcome": NODE_LOST, "end": opened["start"]}
    counted = {"completion_tokens": account.sampled}
    return {"line": "answer", "attempt": opened["attempt"], **tokens, **counted, **end}
