"""What an answer shows of an object: its version, its checksums, its headers, for these bytes of it."""

from dataclasses import replace

from storage.checksum import ALGORITHMS, FULL_OBJECT, WHOLE_SUM, Checksum, combine_crc64nvme, encode_digest
from storage.fault import S3Error
from storage.http.conditions import http_date
from storage.http.document import Node
from storage.http.request import S3Request
from storage.index.rows import NULL_VERSION, Headers, ObjectRow
from storage.index.settings import versioning_of
from storage.index.tags import split_tags, tags_of
from storage.operations.asked import CONTENT_HEADERS
from storage.operations.lifecycle import expiry_headers
from storage.store import Store

DEFAULT_TYPE = ("content-type", "binary/octet-stream")


def version_headers(store: Store, row: ObjectRow) -> Headers:
    """The header that names the version, in a bucket that has or had versioning."""
    if row.version == NULL_VERSION and not versioning_of(store.index.reader(), row.bucket):
        return ()
    return (("x-amz-version-id", row.version),)


def checksum_headers(checksum: Checksum | None) -> Headers:
    """The headers that show a checksum, if there is one."""
    return () if checksum is None else checksum.headers()


def checksum_nodes(checksum: Checksum | None) -> list[Node]:
    """The XML elements that show a checksum, if there is one."""
    if checksum is None:
        return []
    return [(f"Checksum{checksum.algorithm}", checksum.value), ("ChecksumType", checksum.type)]


def _overrides(request: S3Request) -> Headers:
    """The response-* query parameters. Raises: S3Error InvalidArgument."""
    found = [(name, request.query.get(f"response-{name}")) for name in CONTENT_HEADERS]
    for name, value in found:
        if value is not None and not (value.isascii() and value.isprintable()):
            raise S3Error("InvalidArgument", f"response-{name} must be printable ASCII.")
    return tuple((name, value) for name, value in found if value is not None)


def object_headers(store: Store, request: S3Request, row: ObjectRow, span: tuple[int, int] | None) -> Headers:
    """The headers of an answer with these bytes of an object. Raises: S3Error InvalidArgument."""
    kept, _ = split_tags(row.headers)
    expiry = expiry_headers(store.index.reader(), row) if "versionId" not in request.query else ()
    headers = dict((DEFAULT_TYPE, *kept, *version_headers(store, row), *expiry, *_overrides(request)))
    num_tags = len(tags_of(row.headers))
    if num_tags:
        headers["x-amz-tagging-count"] = str(num_tags)
    if "partNumber" in request.query and row.parts:
        headers["x-amz-mp-parts-count"] = str(len(row.parts))
    headers |= {
        "etag": f'"{row.etag}"',
        "last-modified": http_date(row.modified_ms),
        "accept-ranges": "bytes",
    }
    if span is not None:
        headers["content-range"] = f"bytes {span[0]}-{span[0] + span[1] - 1}/{row.size}"
    if request.get("x-amz-checksum-mode") == "ENABLED":
        headers |= dict(_checksum_headers(request, row, span))
    if request.get(WHOLE_SUM) is not None and _may_be_kept(store, row):
        headers[WHOLE_SUM] = whole_checksum(row).value
    return tuple(headers.items())


def _may_be_kept(store: Store, row: ObjectRow) -> bool:
    """Whether another region may answer reads of it by a key's grants alone: a policy can only be judged here."""
    access = store.accesses.find(row.bucket)
    return (access is None or access.policy is None) and bool(row.extents or not row.size)


def _checksum_headers(request: S3Request, row: ObjectRow, span: tuple[int, int] | None) -> Headers:
    """The checksum of exactly the bytes given: of the whole, of a part that was read by its number; of no range."""
    if span is None:
        return (row.checksum or whole_checksum(row)).headers()
    if "partNumber" not in request.query or row.checksum is None:
        return ()
    values = [value for _, value in row.parts] or [row.checksum.value]
    value = values[int(request.query["partNumber"]) - 1]
    return () if value is None else replace(row.checksum, value=value).headers()


def whole_checksum(row: ObjectRow) -> Checksum:
    """The CRC64NVME every object has, put together from its extents'."""
    value = 0
    for extent in row.extents:
        value = combine_crc64nvme(value, extent.crc64, extent.length)
    return Checksum(
        "CRC64NVME", encode_digest(value.to_bytes(ALGORITHMS["CRC64NVME"].width_bytes, "big")), FULL_OBJECT
    )
