"""What a request says about its body, checked as far as heads go: size, protection, digests, trailers."""

from dataclasses import dataclass

from storage.auth.canonical import PayloadKind
from storage.checksum import (
    BY_HEADER,
    HEADER_PREFIX,
    OWN_CHECKSUM,
    Algorithm,
    decode_digest,
    parse_algorithm,
    parse_value,
)
from storage.fault import S3Error
from storage.http.request import S3Request

OWN_ETAG_BYTES = 8 * 1024 * 1024  # where transfer programs begin to cut files into parts
MAX_PUT_BYTES = 5 * 1024**3  # S3's largest single PUT and part
_NOT_VALUES = frozenset({HEADER_PREFIX + "algorithm", HEADER_PREFIX + "type", HEADER_PREFIX + "mode"})


@dataclass(frozen=True, slots=True)
class BodyPlan:
    """A body as it was announced.

    `least` is None for a body of exactly `size` bytes. A form's file ends where it ends: from `least` to `size` bytes.
    """

    size: int
    kind: PayloadKind
    sha256: str | None
    md5: bytes | None
    algorithm: Algorithm | None  # to compute, and to compare if a value comes
    digest: bytes | None  # the value in a header
    trailers: frozenset[str]
    least: int | None = None

    @property
    def wants_md5(self) -> bool:
        """Whether the ETag must be an MD5: unless a large body comes with a CRC64NVME and no MD5.

        Who sends that checksum checks by it, and whoever sends so much meets ETags of multipart uploads, which are no
        MD5 either.
        """
        sent = self.digest is not None or bool(self.trailers)
        own = sent and self.algorithm is not None and self.algorithm.name == OWN_CHECKSUM
        return self.md5 is not None or self.size < OWN_ETAG_BYTES or not own


def plan_body(request: S3Request, max_bytes: int, algorithm: str | None = None) -> BodyPlan:
    """The plan of a body; `algorithm` is computed even if the caller sent no value of it. Raises: S3Error."""
    kind = request.verified.payload
    trailers = _announced_trailers(request, kind)
    about_body = request.operation != "CompleteMultipartUpload"  # whose checksum header is about the object
    sent, digest = _sent_checksum(request, trailers) if about_body else (None, None)
    if sent is not None and algorithm is not None and sent.name != algorithm:
        raise S3Error("InvalidRequest", f"The upload was begun with {algorithm}, this part has {sent.name}.")
    wanted = sent or (parse_algorithm(algorithm) if algorithm else None)
    size = _size(request, kind, max_bytes)
    return BodyPlan(size, kind, request.verified.sha256, _content_md5(request), wanted, digest, trailers)


def _size(request: S3Request, kind: PayloadKind, max_bytes: int) -> int:
    raw = request.get("x-amz-decoded-content-length") if kind.chunked else request.get("content-length")
    if raw is None and request.head.chunked:
        raise S3Error("MissingContentLength", "You must provide the Content-Length HTTP header.")
    if raw is not None and not (raw.isascii() and raw.isdigit() and len(raw) < 20):
        raise S3Error("InvalidArgument", "The length of the body must be a plain number.")
    if not kind.chunked and "aws-chunked" in (request.get("content-encoding") or ""):
        raise S3Error(
            "InvalidRequest", "Content-Encoding aws-chunked needs a STREAMING- x-amz-content-sha256."
        )
    size = int(raw or 0)
    if size > max_bytes:
        message = "Your proposed upload exceeds the maximum allowed size"
        raise S3Error("EntityTooLarge", message, ProposedSize=str(size), MaxSizeAllowed=str(max_bytes))
    return size


def _content_md5(request: S3Request) -> bytes | None:
    raw = request.get("content-md5")
    if raw is None:
        return None
    digest = decode_digest(raw, 16)
    if digest is None:
        raise S3Error("InvalidDigest", "The Content-MD5 you specified is not valid.")
    return digest


def _announced_trailers(request: S3Request, kind: PayloadKind) -> frozenset[str]:
    raw = request.get("x-amz-trailer")
    names = frozenset(name.strip().lower() for name in raw.split(",")) if raw else frozenset()
    with_trailer = kind in {PayloadKind.CHUNKS_SIGNED_TRAILER, PayloadKind.CHUNKS_UNSIGNED_TRAILER}
    if names and not with_trailer:
        raise S3Error("InvalidRequest", "x-amz-trailer needs a payload kind that ends in -TRAILER.")
    if len(names) > 1 or not names <= BY_HEADER.keys():
        raise S3Error("InvalidRequest", f"x-amz-trailer takes one of {', '.join(BY_HEADER)}.")
    return names


def _sent_checksum(request: S3Request, trailers: frozenset[str]) -> tuple[Algorithm | None, bytes | None]:
    """The one checksum that comes with the body, its value if it is in a header."""
    named = {n: v for n, v in request.head.headers if n.startswith(HEADER_PREFIX) and n not in _NOT_VALUES}
    if not named.keys() <= BY_HEADER.keys():
        raise S3Error("InvalidRequest", f"Checksum headers are {', '.join(BY_HEADER)}.")
    if len(named) + len(trailers) > 1:
        raise S3Error("InvalidRequest", "Expecting a single x-amz-checksum- header or trailer.")
    if trailers:
        return BY_HEADER[next(iter(trailers))], None
    if not named:
        return None, None
    name, value = next(iter(named.items()))
    return BY_HEADER[name], parse_value(BY_HEADER[name], value)
