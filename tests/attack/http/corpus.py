"""Payloads of other people's, from a folder that NEARFIELD_SMUGGLING names: nothing of them lives here.

`*.md`: each `Payload: `...`` with Python's escapes, as in the HTTP Garden's TROPHIES.md. `*.txt`: one payload a line
with the same escapes. Any other file is one payload, byte for byte.
"""

import os
import re
from pathlib import Path

_IN_MARKDOWN = re.compile(r"Payload:\s*`+([^`]+)`+")


def payloads() -> dict[str, bytes]:
    """Every payload by where it was found; empty if no folder is named."""
    folder = os.environ.get("NEARFIELD_SMUGGLING")
    if not folder:
        return {}
    return {
        f"{path.relative_to(folder)}:{number}": data
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
        for number, data in enumerate(_of_file(path))
    }


def _of_file(path: Path) -> list[bytes]:
    if path.suffix == ".md":
        return [_unescaped(text) for text in _IN_MARKDOWN.findall(path.read_text("utf-8"))]
    if path.suffix == ".txt":
        return [_unescaped(line) for line in path.read_text("utf-8").splitlines() if line]
    return [path.read_bytes()]


def _unescaped(text: str) -> bytes:
    return text.encode("latin-1", "replace").decode("unicode_escape").encode("latin-1", "replace")
