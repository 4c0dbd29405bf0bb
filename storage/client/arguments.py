"""Our types as the SDKs' arguments, and their answers as ours."""

from collections.abc import Mapping
from typing import Any, Literal


def given(**fields: Any) -> dict[str, Any]:
    """The SDK's arguments that were given at all."""
    return {name: value for name, value in fields.items() if value not in {None, ""}}


def quoted(etag: str | None) -> str | None:
    """An ETag as headers have it; `*` stays `*`."""
    return etag if etag is None or etag == "*" else f'"{etag}"'


def unquoted(etag: str) -> str:
    """An ETag as our types have it."""
    return etag.strip('"')


def star(if_none_match: bool | Literal["*"]) -> str | None:
    """If-None-Match's only value, if it is asked for."""
    return "*" if if_none_match else None


def byte_range(start: int | None, length: int | None) -> str | None:
    """A Range header, if part of an object is asked for."""
    if start is None and length is None:
        return None
    first = start or 0
    return f"bytes={first}-" if length is None else f"bytes={first}-{first + length - 1}"


def size_of(answer: Mapping[str, Any]) -> int:
    """The whole object's size, from Content-Range if the answer is a part of it."""
    content_range = answer.get("ContentRange")
    return int(content_range.rpartition("/")[2]) if content_range else int(answer["ContentLength"])
