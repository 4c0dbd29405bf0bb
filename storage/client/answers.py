"""What a store's client gives back and raises: plain values, no SDK."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class StoreError(Exception):
    """The store refused. `code` is S3's, `status` HTTP's (0 if there was no answer)."""

    def __init__(self, code: str, message: str, status: int = 0) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status


class NotFound(StoreError):
    """No such bucket, key or upload."""


class PreconditionFailed(StoreError):
    """If-Match or If-None-Match did not hold: somebody else was first."""


class Unreachable(StoreError):
    """No answer: the connection failed, or the store is overloaded. Worth another try."""


_MISSING = frozenset({"NoSuchKey", "NoSuchBucket", "NoSuchUpload", "NotFound", "404"})
_FAILED = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412", "409"})


def error_of(code: str, message: str, status: int) -> StoreError:
    """The error for a refusal of that S3 code and HTTP status."""
    if code in _MISSING:
        return NotFound(code, message, status)
    if code in _FAILED:
        return PreconditionFailed(code, message, status)
    if status >= 500 and code != "NotImplemented":
        return Unreachable(code, message, status)
    return StoreError(code, message, status)


@dataclass(frozen=True, slots=True)
class Entry:
    """An object as a listing shows it; `modified_s` is seconds since 1970."""

    key: str
    size: int
    etag: str
    modified_s: float


@dataclass(frozen=True, slots=True)
class Got:
    """Bytes of an object; `size` is the whole object's."""

    data: bytes
    etag: str
    size: int
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Change:
    """A line of the change feed. kind: `put` or `delete`; at: seconds since 1970."""

    seq: int
    bucket: str
    key: str
    kind: str
    size: int
    etag: str
    at: float


@dataclass(frozen=True, slots=True)
class Changes:
    """Lines, and the `since` for the next ask."""

    seq: int
    changes: tuple[Change, ...]

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Changes":
        """The feed's JSON as a value."""
        return cls(document["seq"], tuple(Change(**line) for line in document["changes"]))


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A multipart upload that was begun and not ended; `initiated_s` is seconds since 1970."""

    key: str
    upload_id: str
    initiated_s: float


@dataclass(frozen=True, slots=True)
class Uploaded:
    """A file that `upload_folder` put into the bucket."""

    path: str
    size: int
    etag: str
