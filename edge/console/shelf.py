"""Reports that `nearfield report` brought: the last few, whole, in a folder of this edge.

A report is a page without scripts, with its figures beside it; what is kept of the figures is a table of a few rows.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from pathlib import Path

MAX_BYTES: Final = 6 << 20  # of what is brought: a page of 10,000 requests has at most 2 MiB, escaped in JSON
MAX_KEPT: Final = 20
MAX_ROWS: Final = 200  # a region and a start state each
_ID: Final = re.compile(r"[0-9]{13}-[0-9a-f]{8}")
_TEXT: Final = {"model": 200, "revision": 64, "made_at": 40}


class Shelf:
    """`folder` is made with the first report. Calls block for a few milliseconds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, body: bytes, number: str) -> dict[str, Any]:
        """Keep `{"model", "revision", "made_at", "rows", "html"}` as report `number`. Raises Refusal 400, OSError."""
        about, html = _read(body)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._write(f"{number}.html", html.encode())
        self._write(f"{number}.json", json.dumps(about).encode())  # last: it is listed from here on
        for old in sorted(self._folder.glob("*.json"))[:-MAX_KEPT]:
            old.unlink()
            old.with_suffix(".html").unlink(missing_ok=True)
        return {"id": number, **about}

    def ls(self) -> list[dict[str, Any]]:
        """What is kept, newest first."""
        if not self._folder.is_dir():
            return []
        files = sorted(self._folder.glob("*.json"), reverse=True)
        return [{"id": file.stem, **json.loads(file.read_bytes())} for file in files]

    def page(self, number: str) -> bytes:
        """Raises Refusal 404."""
        path = self._folder / f"{number}.html"
        if not _ID.fullmatch(number) or not path.is_file():
            raise Refusal(404, "not_found", "There is no such report; the last 20 are kept.")
        return path.read_bytes()

    def _write(self, name: str, data: bytes) -> None:
        fresh = self._folder / f".{name}.new"
        fresh.write_bytes(data)
        fresh.replace(self._folder / name)


def _read(body: bytes) -> tuple[dict[str, Any], str]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _bad() from error
    html, rows = (value.get("html"), value.get("rows")) if isinstance(value, dict) else (None, None)
    if not isinstance(html, str) or not isinstance(rows, list) or len(rows) > MAX_ROWS:
        raise _bad()
    about = {name: str(value.get(name, ""))[:most] for name, most in _TEXT.items()}
    return {**about, "rows": [_row(row) for row in rows]}, html


def _row(row: object) -> dict[str, str | float | None]:
    if not isinstance(row, dict):
        raise _bad()
    number = row.get("p50_ms")
    return {
        "region": str(row.get("region", ""))[:32],
        "start": str(row.get("start", ""))[:16],
        "p50_ms": float(number) if isinstance(number, int | float) else None,
    }


def _bad() -> Refusal:
    return Refusal(
        400, "bad_request", "Send the model, rows of figures and the page, as `nearfield report` does."
    )
