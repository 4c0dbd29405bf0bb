"""What the home said of one version of an object: everything a read's answer needs but the bytes."""

import json
from dataclasses import asdict, dataclass

from storage.auth.key import BucketName, ObjectKey
from storage.checksum import ALGORITHMS, HEADER_PREFIX, WHOLE_SUM, Checksum, decode_digest
from storage.fault import S3Error
from storage.http.conditions import parse_date_ms
from storage.index.rows import Headers, ObjectRow

_NOT_KEPT = frozenset(
    {
        "accept-ranges",
        "connection",
        "content-length",
        "date",
        "etag",
        "keep-alive",
        "last-modified",
        "server",
        "x-amz-request-id",
        WHOLE_SUM,
    }
)


@dataclass(frozen=True, slots=True)
class Facts:
    """One version of an object at its home. `crc64` is the CRC64NVME of all its bytes; `etag` is unquoted."""

    bucket: str
    key: str
    size: int
    etag: str
    modified_ms: int
    headers: Headers
    checksum: Checksum
    crc64: int

    @classmethod
    def of_answer(cls, bucket: str, key: str, fields: Headers) -> "Facts | None":
        """What a HEAD was answered with; None if that is not what a store of ours says."""
        found = dict(fields)
        whole, modified_ms = _crc64(found.get(WHOLE_SUM)), parse_date_ms(found.get("last-modified"))
        checksum, size = _checksum(found), found.get("content-length", "")
        if whole is None or modified_ms is None or checksum is None or not size.isdigit():
            return None
        kept = tuple(
            (name, value)
            for name, value in fields
            if name not in _NOT_KEPT and not name.startswith(HEADER_PREFIX)
        )
        etag = found.get("etag", "").strip('"')
        return cls(bucket, key, int(size), etag, modified_ms, kept, checksum, whole)

    @classmethod
    def from_json(cls, data: bytes) -> "Facts | None":
        """What `to_json` wrote; None for anything else, such as half of it."""
        try:
            value = json.loads(data)
            value["headers"] = tuple((str(name), str(text)) for name, text in value["headers"])
            value["checksum"] = Checksum(**value["checksum"])
            return cls(**value)
        except (ValueError, KeyError, TypeError):
            return None

    def to_json(self) -> bytes:
        """The facts as a small file."""
        return json.dumps(asdict(self)).encode()

    @property
    def row(self) -> ObjectRow:
        """The same as the index would have it, without a place for the bytes."""
        bucket, key = BucketName(self.bucket), ObjectKey(self.key)
        return ObjectRow(bucket, key, self.size, self.etag, self.modified_ms, self.headers, (), self.checksum)


def _crc64(raw: str | None) -> int | None:
    digest = decode_digest(raw or "", ALGORITHMS["CRC64NVME"].width_bytes)
    return None if digest is None else int.from_bytes(digest, "big")


def _checksum(found: dict[str, str]) -> Checksum | None:
    for algorithm in ALGORITHMS.values():
        value = found.get(algorithm.header)
        if value is not None:
            return Checksum(algorithm.name, value, found.get(f"{HEADER_PREFIX}type", "FULL_OBJECT"))
    return None


class Changed(Exception):
    """The home has another version by now, or none: these bytes are not to be had any more."""


class Away(Exception):
    """The home does not answer, or not with what was asked for."""


def away_error(error: Exception) -> S3Error:
    """What a client hears of a home that is away: try again."""
    return S3Error("ServiceUnavailable", f"The bucket's home region does not answer ({error}); try again.")
