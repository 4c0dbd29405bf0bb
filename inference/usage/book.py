"""The lines of a journal made into one record of each request. Pure; a line that comes twice changes nothing.

A request has three lines: `open` before its orders go to an engine, `answer` before the last byte of its answer goes
out, `account` when the engine has said what the last of its orders cost. All three are a record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Set as AbstractSet

Line = dict[str, Any]
Record = dict[str, Any]

LINES = ("open", "answer", "account")


class Book:
    """What a node knows of requests that are in no sealed file yet, by attempt (see `entry.Entry`)."""

    def __init__(self) -> None:
        self._open: dict[str, dict[str, Line]] = {}
        self._complete: dict[str, Record] = {}

    @property
    def num_complete(self) -> int:
        """Records that wait to be sealed."""
        return len(self._complete)

    @property
    def complete(self) -> list[Record]:
        """Those records."""
        return list(self._complete.values())

    def receive(self, line: Line) -> Record | None:
        """Take a line in; the record that it completes. Raises KeyError, TypeError: it is no line of ours."""
        kind, attempt = str(line["line"]), str(line["attempt"])
        if attempt in self._complete or kind not in LINES:
            return None
        lines = self._open.get(attempt)
        if lines is None:
            if kind != "open":
                return None
            lines = self._open[attempt] = {}
        lines.setdefault(kind, line)
        if len(lines) < len(LINES):
            return None
        del self._open[attempt]
        record = lines["open"] | lines["answer"] | lines["account"]
        del record["line"]
        self._complete[attempt] = record
        return record

    def unfinished(self) -> Iterator[dict[str, Line]]:
        """The lines of each request that has no record yet, by kind."""
        yield from self._open.values()

    def take(self, most: int) -> list[Record]:
        """The oldest records, `most` of them; they are sealed from here on."""
        attempts = list(self._complete)[:most]
        return [self._complete.pop(attempt) for attempt in attempts]

    def give_back(self, records: list[Record]) -> None:
        """They could not be sealed."""
        self._complete = {record["attempt"]: record for record in records} | self._complete

    def forget(self, attempts: AbstractSet[str]) -> None:
        """These are sealed already."""
        for attempt in attempts:
            self._open.pop(attempt, None)
            self._complete.pop(attempt, None)
