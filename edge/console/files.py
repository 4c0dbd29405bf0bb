"""The console's files: read once, from beside this module, and served from memory by their names. No build step.

A file's tag is the digest of its bytes, and a browser asks each time whether it is still that one: after an upgrade
nobody runs a page that is half old.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from edge.console.guard import PAGE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wire.http.http1 import Headers, RequestHead

FOLDER: Final = Path(__file__).parent / "static"
TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
INDEX: Final = "index.html"


class File(NamedTuple):
    """One of them, and the heads of both of its answers."""

    body: bytes
    tag: str
    headers: Headers

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises OSError; KeyError for a file of a kind that is not served."""
        body = path.read_bytes()
        tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        return cls(body, tag, (("content-type", TYPES[path.suffix]), ("etag", tag), *PAGE))

    def is_known_to(self, head: RequestHead) -> bool:
        """Whether the browser has these very bytes."""
        known = (head.get("if-none-match") or "").split(",")
        return any(each.strip().removeprefix("W/") in {self.tag, "*"} for each in known)


def read_all(folder: Path = FOLDER) -> Mapping[str, File]:
    """Every file by its path below /console/; the index also by none. Raises OSError."""
    found = {path.name: File.read(path) for path in sorted(folder.iterdir()) if path.is_file()}
    return {**found, "": found[INDEX]}
