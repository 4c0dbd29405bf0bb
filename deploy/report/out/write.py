"""The report where people and programs look: a page, a document, every request, the rows, a comment."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.report.document import Report
from deploy.report.out.lines import requests, rows_csv
from deploy.report.out.markdown import markdown
from deploy.report.out.table import render
from deploy.report.out.values import as_json_document
from deploy.report.page.html import page

__all__ = ["Outputs", "render", "write"]


def _document(report: Report) -> str:
    return json.dumps(as_json_document(report), indent=1, ensure_ascii=False) + "\n"


WRITERS: Mapping[str, Callable[[Report], str]] = {
    "html": page,
    "json": _document,
    "jsonl": lambda report: "".join(requests(report)),
    "csv": rows_csv,
    "markdown": markdown,
}
IN_FOLDER: Mapping[str, str] = {
    "html": "report.html",
    "json": "report.json",
    "jsonl": "requests.jsonl",
    "csv": "summary.csv",
    "markdown": "report.md",
}


@dataclass(frozen=True, slots=True)
class Outputs:
    """The files that are wanted; None is not written."""

    html: Path | None = None
    json: Path | None = None
    jsonl: Path | None = None
    csv: Path | None = None
    markdown: Path | None = None

    def or_in(self, folder: Path | None) -> "Outputs":
        """The same, and those that are not named in `folder`."""
        if folder is None:
            return self
        return Outputs(**{name: getattr(self, name) or folder / file for name, file in IN_FOLDER.items()})

    def named(self) -> Iterator[tuple[str, Path]]:
        """(kind, path) of each."""
        for name in WRITERS:
            path = getattr(self, name)
            if path is not None:
                yield name, path


def write(report: Report, outputs: Outputs) -> None:
    """Write the files that are named. Raises OSError."""
    for name, path in outputs.named():
        path.write_text(WRITERS[name](report), encoding="utf-8")
