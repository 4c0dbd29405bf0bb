"""A request's body on its way to the disk: decoded, measured, hashed, checked. What runs it is `receive.py`."""

import hashlib
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

from blake3 import blake3

from storage.checksum import (
    OWN_CHECKSUM,
    Checksum,
    Hasher,
    crc64nvme,
    encode_digest,
    parse_value,
)
from storage.fault import S3Error
from storage.http.awschunked import AwsChunkedDecoder
from storage.http.bodyplan import BodyPlan
from storage.http.lane import Lane, Pieces
from storage.http.request import S3Request
from storage.http.sinks import Sink
from storage.index.rows import Extent

BESIDE_BYTES = (
    1024 * 1024
)  # of a body whose MD5 gets a thread of its own; a smaller one is not worth waking it
ETAG_BYTES = 16  # as long as others' are


@dataclass(frozen=True, slots=True)
class Received:
    """A body that is whole, right, and durable in its sink."""

    size: int
    etag: str
    checksum: Checksum | None
    extents: tuple[Extent, ...]


class Ingest:
    """One body into one sink. The methods run in threads, in order; the lock makes `abort` wait its turn.

    MD5 takes longer than everything else together (a tenth of CRC64NVME's rate, half of the disk's), so with
    `beside` it runs on a thread of that pool while the bytes are written. Where no MD5 is wanted, BLAKE3 names the
    bytes, at ten times the rate.
    """

    def __init__(
        self,
        plan: BodyPlan,
        request: S3Request,
        make_sink: Callable[[], Sink],
        beside: Executor | None = None,
    ) -> None:
        self.plan = plan
        self.sink: Sink | None = None
        self._make_sink = make_sink
        self._lock = threading.Lock()
        self._aborted = False
        chain = request.verified.chain
        self._decoder = (
            AwsChunkedDecoder(chain=chain, trailers=plan.trailers, decoded_bytes=plan.size)
            if plan.kind.chunked
            else None
        )
        self._size = 0
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._blake3 = None if plan.wants_md5 else blake3()
        self._lane = (
            Lane(beside, partial(_update, self._md5))
            if beside is not None and plan.wants_md5 and plan.size >= BESIDE_BYTES
            else None
        )
        self._sha256 = hashlib.sha256() if plan.sha256 else None
        self._crc64 = crc64nvme()
        self._checksum = self._asked_checksum()

    def _asked_checksum(self) -> Hasher | None:
        """What computes the caller's checksum; the extent's own if it is that one, not the same work twice."""
        algorithm = self.plan.algorithm
        if algorithm is None:
            return None
        return self._crc64 if algorithm.name == OWN_CHECKSUM else algorithm.hasher()

    def take(self, data: memoryview) -> None:
        """Take the next bytes, which lie there only until this returns. Raises: S3Error, OSError."""
        self.feed([data if self._lane is None else bytes(data)])

    def feed(self, pieces: Pieces) -> None:
        """Take the next bytes as they came. Raises: S3Error, OSError."""
        with self._lock:
            payload = [piece for data in pieces for piece in self._decoded(data)]
            num_bytes = sum(map(len, payload))
            self._measure(num_bytes)
            if self._lane is None:
                _update(self._blake3 or self._md5, payload)
            else:
                self._lane.put(payload)
            self._take(payload)

    def finish(self, pieces: Pieces) -> Received:
        """Take the last bytes, check everything, make it durable. Raises: S3Error, OSError."""
        self.feed(pieces)
        with self._lock:
            trailers = self._decoder.finish() if self._decoder else {}
            if self._lane is not None:
                self._lane.drain()
            self._check(trailers)
            extents = self._publish() if self._size else ()
        return Received(self._size, self._etag(), self._own_checksum(), extents)

    def abort(self) -> None:
        """Leave nothing behind."""
        with self._lock:
            self._aborted = True
            if self.sink is not None:
                self.sink.abort()

    def _etag(self) -> str:
        """The MD5, or what nobody takes for one: the dash is that of ETags of multipart uploads."""
        if self._blake3 is None:
            return self._md5.hexdigest()
        return f"{self._blake3.hexdigest(ETAG_BYTES)}-1"

    def _publish(self) -> tuple[Extent, ...]:
        sink = self._open_sink()
        sink.publish()
        return (Extent(sink.blob, sink.offset, self._size, self._crc64.value),)

    def _open_sink(self) -> Sink:
        if self._aborted:
            raise S3Error("IncompleteBody", "The upload was given up.")
        if self.sink is None:
            self.sink = self._make_sink()
        return self.sink

    def _decoded(self, data: bytes | memoryview) -> Iterable[bytes | memoryview]:
        return self._decoder.receive(data) if self._decoder else (data,)

    def _measure(self, num_bytes: int) -> None:
        self._size += num_bytes
        if self._size > self.plan.size:
            raise _too_long(self.plan)

    def _take(self, payload: list[bytes | memoryview]) -> None:
        """Everything but what the ETag is made of."""
        _update(self._crc64, payload)
        if self._sha256 is not None:
            _update(self._sha256, payload)
        if self._checksum is not None and self._checksum is not self._crc64:
            _update(self._checksum, payload)
        for piece in payload:
            self._open_sink().write(piece)

    def _check(self, trailers: dict[str, str]) -> None:
        plan = self.plan
        if self._size < (plan.size if plan.least is None else plan.least):
            raise _too_short(plan)
        if plan.md5 is not None and plan.md5 != self._md5.digest():
            raise S3Error("BadDigest", "The Content-MD5 you specified did not match what we received.")
        if self._sha256 is not None and plan.sha256 != self._sha256.hexdigest():
            raise S3Error(
                "XAmzContentSHA256Mismatch",
                "The provided 'x-amz-content-sha256' header does not match what was computed.",
            )
        self._check_checksum(trailers)

    def _check_checksum(self, trailers: dict[str, str]) -> None:
        algorithm = self.plan.algorithm
        if algorithm is None or self._checksum is None:
            return
        sent = self.plan.digest
        if algorithm.header in trailers:
            sent = parse_value(algorithm, trailers[algorithm.header])
        if sent is not None and sent != self._checksum.digest():
            raise S3Error(
                "BadDigest", f"The {algorithm.name} you specified did not match the calculated checksum."
            )

    def _own_checksum(self) -> Checksum | None:
        if self.plan.algorithm is None or self._checksum is None:
            return None
        return Checksum(self.plan.algorithm.name, encode_digest(self._checksum.digest()))


def _update(hasher: Hasher, payload: Pieces) -> None:
    for piece in payload:
        hasher.update(piece)


def _too_long(plan: BodyPlan) -> S3Error:
    if plan.least is None:
        return S3Error("IncompleteBody", "The body is longer than was announced.")
    message = "Your proposed upload exceeds the maximum allowed size"
    return S3Error("EntityTooLarge", message, MaxSizeAllowed=str(plan.size))


def _too_short(plan: BodyPlan) -> S3Error:
    if plan.least is None:
        return S3Error(
            "IncompleteBody", "You did not provide the number of bytes specified by Content-Length."
        )
    message = "Your proposed upload is smaller than the minimum allowed size"
    return S3Error("EntityTooSmall", message, MinSizeAllowed=str(plan.least))
