"""The report where people and programs look: a page, a document, a terminal."""

import json
from pathlib import Path

from deploy.report.document import Report, as_json_document
from deploy.report.html import page
from deploy.report.table import render

__all__ = ["render", "write"]


def write(report: Report, html: Path | None, json_file: Path | None) -> None:
    """Write the files that are named. Raises OSError."""
    if html is not None:
        html.write_text(page(report), encoding="utf-8")
    if json_file is not None:
        value = json.dumps(as_json_document(report), indent=1, ensure_ascii=False)
        json_file.write_text(value + "\n", encoding="utf-8")
