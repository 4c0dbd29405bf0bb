"""What the index holds, as frozen values."""

from collections.abc import Iterable
from dataclasses import dataclass

from storage.auth.acl import Acl
from storage.auth.key import BucketName, ObjectKey
from storage.checksum import Checksum, combine_crc64nvme

Headers = tuple[tuple[str, str], ...]

INLINE = "in-"
NULL_VERSION = "null"  # S3's name of the version that is written while versioning is not enabled
Sizes = tuple[tuple[int, str | None], ...]  # of each part: its bytes and the value of its checksum


@dataclass(frozen=True, slots=True)
class Extent:
    """A run of bytes of one blob, and the CRC64NVME of exactly those bytes.

    A blob whose id begins with INLINE is a row of the index instead of a file: one flush makes it durable, not four.
    """

    blob: str
    offset: int
    length: int
    crc64: int

    @property
    def inline(self) -> bool:
        """True if the bytes are in the index."""
        return self.blob.startswith(INLINE)


@dataclass(frozen=True, slots=True)
class ObjectRow:
    """One version of an object. `etag` is unquoted; `headers` are those to give back, and the tags.

    A delete marker is a version without an ETag; it stands only in the table of versions. Without an `acl` it is its
    bucket's owner's and private.
    """

    bucket: BucketName
    key: ObjectKey
    size: int
    etag: str
    modified_ms: int
    headers: Headers
    extents: tuple[Extent, ...]
    checksum: Checksum | None = None
    num_parts: int = 0  # 0: not a multipart object
    upload: str | None = None
    seq: int = 0
    version: str = NULL_VERSION
    parts: Sizes = ()
    acl: Acl | None = None

    @property
    def marker(self) -> bool:
        """True for a delete marker."""
        return not self.etag


@dataclass(frozen=True, slots=True)
class UploadRow:
    """A multipart upload that has begun. `slab` names the blob that its equal parts may share."""

    id: str
    bucket: BucketName
    key: ObjectKey
    created_ms: int
    headers: Headers
    algorithm: str | None
    checksum_type: str | None
    slab: str
    acl: Acl | None = None


@dataclass(frozen=True, slots=True)
class PartRow:
    """One uploaded part; `etag` begins with a digest of its bytes, 32 digits, mostly their MD5."""

    number: int
    size: int
    etag: str
    modified_ms: int
    extents: tuple[Extent, ...]
    checksum: Checksum | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """One line of the outbox. kind: `put` or `delete`."""

    seq: int
    bucket: str
    key: str
    kind: str
    size: int
    etag: str
    at_ms: int


def coalesce(extents: Iterable[Extent]) -> tuple[Extent, ...]:
    """The same bytes with neighbouring extents of one blob joined; empty ones go."""
    joined: list[Extent] = []
    for extent in extents:
        last = joined[-1] if joined else None
        if last and last.blob == extent.blob and last.offset + last.length == extent.offset:
            crc64 = combine_crc64nvme(last.crc64, extent.crc64, extent.length)
            joined[-1] = Extent(last.blob, last.offset, last.length + extent.length, crc64)
        elif extent.length:
            joined.append(extent)
    return tuple(joined)
