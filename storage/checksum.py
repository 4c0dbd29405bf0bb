"""The checksums S3 knows, computed while bytes pass, and put together from parts without reading them again.

MD5, SHA and CRC32 are the standard library's. CRC32C and CRC64NVME, and combining CRCs, are awscrt's.
"""

import base64
import binascii
import hashlib
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from storage.fault import S3Error

HEADER_PREFIX = "x-amz-checksum-"
OWN_CHECKSUM = "CRC64NVME"  # every extent has it, whatever the caller sends
WHOLE_SUM = (
    "x-nearfield-crc64nvme"  # a store asks another one for OWN_CHECKSUM of a whole object, and is told it
)
COMPOSITE = "COMPOSITE"
FULL_OBJECT = "FULL_OBJECT"


class Hasher(Protocol):
    """Bytes in, digest out; what hashlib gives, for CRCs too."""

    def update(self, data: bytes | memoryview, /) -> object:
        """Take the next bytes."""

    def digest(self) -> bytes:
        """The digest of all bytes so far, big-endian for CRCs."""


class Crc:
    """A running CRC with hashlib's interface."""

    def __init__(self, step: Callable[[bytes | memoryview, int], int], width_bytes: int) -> None:
        self._step = step
        self._width_bytes = width_bytes
        self.value = 0

    def update(self, data: bytes | memoryview, /) -> None:
        """Take the next bytes."""
        self.value = self._step(data, self.value)

    def digest(self) -> bytes:
        """The CRC so far, big-endian."""
        return self.value.to_bytes(self._width_bytes, "big")


def native() -> Any:
    """The checksums of awscrt: 60 ms of import that a starting store need not wait for."""
    from awscrt import checksums  # type: ignore[import-untyped]  # noqa: PLC0415 - as said above

    return checksums


def crc32c() -> Crc:
    """A CRC32C (Castagnoli)."""
    return Crc(native().crc32c, 4)


def crc64nvme() -> Crc:
    """A CRC64NVME, the checksum each stored extent carries."""
    return Crc(native().crc64nvme, 8)


def combine_crc64nvme(first: int, second: int, second_bytes: int) -> int:
    """The CRC of two runs of bytes put together, from theirs and the length of the second."""
    joined: int = native().combine_crc64nvme(first, second, second_bytes)
    return joined


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One of S3's checksum algorithms."""

    name: str
    width_bytes: int
    hasher: Callable[[], Hasher]
    types: tuple[str, ...]  # how a multipart object may carry it; the first is the default

    @property
    def header(self) -> str:
        """The header and trailer name."""
        return HEADER_PREFIX + self.name.lower()


_SHA1 = lambda: hashlib.sha1(usedforsecurity=False)  # noqa: E731 - a row of the table below

ALGORITHMS: Mapping[str, Algorithm] = MappingProxyType(
    {
        row.name: row
        for row in (
            Algorithm("CRC32", 4, lambda: Crc(zlib.crc32, 4), (COMPOSITE, FULL_OBJECT)),
            Algorithm("CRC32C", 4, crc32c, (COMPOSITE, FULL_OBJECT)),
            Algorithm("CRC64NVME", 8, crc64nvme, (FULL_OBJECT,)),
            Algorithm("SHA1", 20, _SHA1, (COMPOSITE,)),
            Algorithm("SHA256", 32, hashlib.sha256, (COMPOSITE,)),
        )
    }
)
BY_HEADER: Mapping[str, Algorithm] = MappingProxyType({row.header: row for row in ALGORITHMS.values()})


@dataclass(frozen=True, slots=True)
class Checksum:
    """A checksum as S3 shows it: base64, with `-N` behind a composite one."""

    algorithm: str
    value: str
    type: str = FULL_OBJECT

    def headers(self) -> tuple[tuple[str, str], ...]:
        """The response headers that carry it."""
        return ((ALGORITHMS[self.algorithm].header, self.value), ("x-amz-checksum-type", self.type))


def parse_algorithm(name: str) -> Algorithm:
    """Raises: S3Error InvalidRequest for an unknown algorithm."""
    found = ALGORITHMS.get(name.upper())
    if found is None:
        raise S3Error("InvalidRequest", f"Checksum algorithm {name} is none of {', '.join(ALGORITHMS)}.")
    return found


def parse_type(algorithm: Algorithm, raw: str | None) -> str:
    """The checksum type of a multipart upload. Raises: S3Error InvalidRequest."""
    if raw is None:
        return algorithm.types[0]
    if raw not in algorithm.types:
        raise S3Error("InvalidRequest", f"{algorithm.name} is not available with checksum type {raw}.")
    return raw


def parse_value(algorithm: Algorithm, raw: str) -> bytes:
    """The digest in a checksum header. Raises: S3Error BadDigest: what is no digest is that of no bytes."""
    digest = decode_digest(raw, algorithm.width_bytes)
    if digest is None:
        raise S3Error("BadDigest", f"Value for {algorithm.header} header is invalid.")
    return digest


def decode_digest(raw: str, width_bytes: int) -> bytes | None:
    """Strict base64 of exactly `width_bytes`, else None."""
    try:
        digest = base64.b64decode(raw, validate=True)
    except (binascii.Error, ValueError):
        return None
    return digest if len(digest) == width_bytes else None


def encode_digest(digest: bytes) -> str:
    """A digest as S3 writes it."""
    return base64.b64encode(digest).decode()


def of_parts(algorithm: Algorithm, kind: str, parts: Iterable[tuple[str, int]]) -> Checksum:
    """A multipart object's checksum from its parts' (base64 value, size in bytes); no byte is read again."""
    digests = [(base64.b64decode(value), size) for value, size in parts]
    if kind == FULL_OBJECT:
        whole = _combine(algorithm.name, [(int.from_bytes(digest, "big"), size) for digest, size in digests])
        return Checksum(algorithm.name, encode_digest(whole), FULL_OBJECT)
    hasher = algorithm.hasher()
    hasher.update(b"".join(digest for digest, _ in digests))
    return Checksum(algorithm.name, f"{encode_digest(hasher.digest())}-{len(digests)}", COMPOSITE)


def _combine(name: str, crcs: list[tuple[int, int]]) -> bytes:
    join: Callable[[int, int, int], int] = getattr(native(), f"combine_{name.lower()}")
    value = 0
    for crc, size in crcs:
        value = join(value, crc, size)
    return value.to_bytes(ALGORITHMS[name].width_bytes, "big")
