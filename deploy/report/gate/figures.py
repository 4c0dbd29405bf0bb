"""The figures that a condition may name, out of a report's JSON document. Pure.

Of a row: `STATE.FIGURE` is asked of each region by itself, `REGION.STATE.FIGURE` of one. Of the whole report:
`failed`, `failed_share`, `unattributed`, `remote_bytes`, `eta_error`.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Document = Mapping[str, Any]
Row = Mapping[str, Any]


class NoFigure(Exception):
    """The report has no such figure, or too few requests for it; the message says what to do."""


def _of(name: str, part: str) -> Callable[[Row], float | None]:
    def read(row: Row) -> float | None:
        value = row.get(name)
        return value.get(part) if isinstance(value, dict) else None

    return read


def _plain(name: str) -> Callable[[Row], float | None]:
    return lambda row: row.get(name)


def share_of(num_failed: int, num_asked: int) -> float | None:
    """None where nothing was asked."""
    return num_failed / num_asked if num_asked else None


def _rows_share(document: Document) -> float | None:
    """Of all rows' requests; those of further arms are in no row."""
    rows = document["rows"]
    return share_of(sum(row["num_failed"] for row in rows), sum(row["num_asked"] for row in rows))


ROW_FIGURES: Mapping[str, Callable[[Row], float | None]] = {
    "p50": _of("ttft_ms", "p50"),
    "p90": _of("ttft_ms", "p90"),
    "p95": _of("ttft_ms", "p95"),
    "p99": _of("ttft_ms", "p99"),
    "most": _of("ttft_ms", "most"),
    "least": _of("ttft_ms", "least"),
    "e2e": _of("e2e_ms", "p50"),
    "e2e_p99": _of("e2e_ms", "p99"),
    "tokens_per_s": _of("tokens_per_s", "p50"),
    "unattributed": _plain("unattributed_share"),
    "remote_bytes": _plain("most_remote_bytes"),
    "failed": _plain("num_failed"),
    "failed_share": lambda row: share_of(row["num_failed"], row["num_asked"]),
    "n": _plain("num_asked"),
    "eta_error": _plain("eta_error"),
}
REPORT_FIGURES: Mapping[str, Callable[[Document], float | None]] = {
    "failed": lambda document: document["checks"]["num_failed"],
    "failed_share": _rows_share,
    "unattributed": lambda document: document["checks"]["worst_unattributed_share"],
    "remote_bytes": lambda document: max(
        (row["most_remote_bytes"] for row in document["rows"] if row["start"] != "origin"), default=0
    ),
    "eta_error": lambda document: document["estimates"]["median_error"],
}
HIGHER_IS_BETTER = frozenset({"tokens_per_s", "n"})


def places(document: Document, words: tuple[str, ...]) -> list[str]:
    """The regions in which a name is asked one by one; empty if it is one figure. Raises: NoFigure."""
    if len(words) == 1:
        return []
    if len(words) == 3:
        return [words[0]]
    found = [row["region"] for row in document["rows"] if row["start"] == words[0]]
    if not found:
        raise NoFigure(f"no region has a row {words[0]!r}; there are {_rows(document)}")
    return found


def figure(document: Document, words: tuple[str, ...], region: str | None) -> float:
    """The value of a name in one region. Raises: NoFigure."""
    name = ".".join(words)
    if len(words) == 1:
        return _said(REPORT_FIGURES, words[0], document, name)
    place = words[0] if len(words) == 3 else region
    for row in document["rows"]:
        if len(words) in {2, 3} and (row["region"], row["start"]) == (place, words[-2]):
            return _said(ROW_FIGURES, words[-1], row, f"{place}: {name}")
    raise NoFigure(f"no row for {name!r}; there are {_rows(document)}")


def _said(table: Mapping[str, Callable[[Any], float | None]], word: str, source: Any, name: str) -> float:
    if word not in table:
        raise NoFigure(f"no figure {word!r}; there are {', '.join(table)}")
    value = table[word](source)
    if value is None:
        raise NoFigure(
            f"{name} is not known: too few requests for it (p50 needs 20, p90 100, p95 200, p99 1,000)"
        )
    return float(value)


def _rows(document: Document) -> str:
    return ", ".join(f"{row['region']}.{row['start']}" for row in document["rows"])


def names(document: Document) -> Iterator[tuple[str, ...]]:
    """Every figure of every row that is known in a document."""
    for row in document["rows"]:
        for name, read in ROW_FIGURES.items():
            if read(row) is not None:
                yield row["region"], row["start"], name
