"""Conditional and ranged reads: pure answers to what headers ask of a row. RFC 9110 sections 13 and 14."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime

from storage.fault import S3Error
from storage.index.conditions import parse_etags
from storage.index.rows import ObjectRow

_RANGE = re.compile(r"bytes=[ \t]*([0-9]*)-([0-9]*)[ \t]*")
MAX_DIGITS = 19  # no object ends beyond; clients ask up to 2**63 or more for "to the end"


def http_date(at_ms: int) -> str:
    """A time as HTTP writes it."""
    return format_datetime(datetime.fromtimestamp(at_ms // 1000, UTC), usegmt=True)


def iso_date(at_ms: int) -> str:
    """A time as S3's XML writes it."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{at_ms % 1000:03d}Z"


def parse_date_ms(raw: str | None) -> int | None:
    """An HTTP date in ms; None for none, and for what is no date, as RFC 9110 asks."""
    if raw is None:
        return None
    try:
        at = parsedate_to_datetime(raw)
    except ValueError:
        return None
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)


@dataclass(frozen=True, slots=True)
class ReadAsk:
    """The headers of a read that depend on the object."""

    if_match: str | None = None
    if_none_match: str | None = None
    if_modified_since: str | None = None
    if_unmodified_since: str | None = None
    range: str | None = None
    if_range: str | None = None

    def check(self, row: ObjectRow) -> None:
        """Raises: S3Error PreconditionFailed (412) or NotModified (304)."""
        modified_ms = row.modified_ms - row.modified_ms % 1000  # HTTP dates have whole seconds
        if self.if_match is not None:
            if not _names(self.if_match, row.etag):
                raise _precondition("If-Match")
        else:
            limit_ms = parse_date_ms(self.if_unmodified_since)
            if limit_ms is not None and modified_ms > limit_ms:
                raise _precondition("If-Unmodified-Since")
        if self.if_none_match is not None:
            if _names(self.if_none_match, row.etag):
                raise S3Error("NotModified", "Not Modified", ETag=row.etag)
        else:
            since_ms = parse_date_ms(self.if_modified_since)
            if since_ms is not None and modified_ms <= since_ms:
                raise S3Error("NotModified", "Not Modified", ETag=row.etag)

    def span(self, row: ObjectRow) -> tuple[int, int] | None:
        """(first byte, length) of a range; None for the whole object. Raises: S3Error InvalidRange.

        What is no single byte range is ignored, as S3 and RFC 9110 do.
        """
        match = _RANGE.fullmatch(self.range) if self.range is not None else None
        if match is None or match[1] == match[2] == "" or not self._range_applies(row):
            return None
        first, last = self._bounds(match[1], match[2], row.size)
        if match[1] and match[2] and _position(match[2]) < _position(match[1]):
            return None
        if first >= row.size or last < first:
            raise S3Error(
                "InvalidRange",
                "The requested range is not satisfiable",
                RangeRequested=str(self.range),
                ActualObjectSize=str(row.size),
            )
        return first, last - first + 1

    @staticmethod
    def _bounds(first: str, last: str, size: int) -> tuple[int, int]:
        if not first:
            return max(size - _position(last), 0) if _position(last) else size, size - 1
        return _position(first), min(_position(last), size - 1) if last else size - 1

    def _range_applies(self, row: ObjectRow) -> bool:
        if self.if_range is None:
            return True
        if '"' in self.if_range:
            return _names(self.if_range, row.etag)
        return self.if_range == http_date(row.modified_ms)


def _position(digits: str) -> int:
    """A byte's number; what has more digits than any object is as good as the largest number that has not."""
    plain = digits.lstrip("0") or "0"
    return int(plain) if len(plain) <= MAX_DIGITS else 10**MAX_DIGITS


def _names(header: str, etag: str) -> bool:
    return bool({etag, "*"} & set(parse_etags(header)))


def _precondition(condition: str) -> S3Error:
    message = "At least one of the pre-conditions you specified did not hold"
    return S3Error("PreconditionFailed", message, Condition=condition)
