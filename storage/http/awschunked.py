"""The aws-chunked body coding without I/O: bytes in, payload out, trailers and signatures checked.

Pieces are given out before their chunk's signature is known; nothing may be kept until `finish` has returned.
Source: https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming-trailers.html
"""

import hashlib
import re
from enum import Enum, auto

from storage.auth.sigv4 import ChunkChain
from storage.fault import S3Error

MAX_LINE_BYTES = 256  # a size, ";chunk-signature=" and 64 digits is 98
MAX_TRAILER_BYTES = 2048  # one checksum and one signature is about 180
MIN_CHUNK_BYTES = 8 * 1024  # S3's own minimum for all chunks but the last; bounds the work per byte

_SIGNED_LINE = re.compile(rb"([0-9a-fA-F]{1,12});chunk-signature=([0-9a-f]{64})")
_PLAIN_LINE = re.compile(rb"([0-9a-fA-F]{1,12})")
_TRAILER_LINE = re.compile(rb"([A-Za-z0-9-]{1,64}):[ \t]*([\x21-\x7e]*)[ \t]*\n?")
_TRAILER_SIGNATURE = "x-amz-trailer-signature"


class _State(Enum):
    SIZE = auto()
    DATA = auto()
    DATA_END = auto()
    TRAILER = auto()
    DONE = auto()


class AwsChunkedDecoder:
    """Decodes one body. `chain` is the seeded signature of the signed kinds, None for the unsigned one."""

    def __init__(self, *, chain: ChunkChain | None, trailers: frozenset[str], decoded_bytes: int) -> None:
        """`trailers`: the announced names; `decoded_bytes`: the announced length of the payload."""
        self._chain = chain
        self._trailers_due = trailers
        self._left_bytes = decoded_bytes
        self._state = _State.SIZE
        self._line = b""
        self._chunk_left_bytes = 0
        self._chunk_signature = ""
        self._chunk_hash = hashlib.sha256()
        self._small_chunk_seen = False
        self._trailer_bytes = 0
        self._trailers: dict[str, str] = {}

    def receive(self, data: bytes | memoryview) -> list[memoryview]:
        """The payload in `data`, as views of it. Raises: S3Error for bad framing, signature, length."""
        view = memoryview(data)
        pieces = []
        while view:
            if self._state is _State.DATA:
                piece = view[: self._chunk_left_bytes]
                self._take_data(piece)
                pieces.append(piece)
                view = view[len(piece) :]
            else:
                view = self._take_line(view)
        return pieces

    def finish(self) -> dict[str, str]:
        """The trailers, once all bytes were received. Raises: S3Error IncompleteBody, MalformedTrailerError."""
        if self._state is not _State.DONE:
            raise _incomplete("The aws-chunked body ends early.")
        missing = self._trailers_due - self._trailers.keys()
        if missing:
            raise S3Error("MalformedTrailerError", f"The announced trailer {min(missing)} did not come.")
        return self._trailers

    def _take_data(self, piece: memoryview) -> None:
        if self._chain is not None:
            self._chunk_hash.update(piece)
        self._chunk_left_bytes -= len(piece)
        if not self._chunk_left_bytes:
            self._state = _State.DATA_END
            self._check_chunk()

    def _take_line(self, view: memoryview) -> memoryview:
        """Move bytes up to and with the next CR LF into the line; handle it when it is whole."""
        if self._state is _State.DONE:
            raise _incomplete("Bytes follow the end of the aws-chunked body.")
        held = len(self._line)
        joined = self._line + bytes(view[: MAX_LINE_BYTES + 2 - held])
        end = joined.find(b"\r\n")
        if end < 0:
            if len(joined) >= MAX_LINE_BYTES + 2:
                raise _incomplete("A line of the aws-chunked body is too long.")
            self._line = joined
            return view[len(joined) - held :]
        self._line = b""
        self._handle_line(joined[:end])
        return view[end + 2 - held :]

    def _handle_line(self, line: bytes) -> None:
        if self._state is _State.SIZE:
            self._begin_chunk(line)
        elif self._state is _State.TRAILER:
            self._take_trailer(line)
        elif line:
            raise _incomplete("A chunk is longer than its size.")
        else:
            self._state = _State.SIZE

    def _begin_chunk(self, line: bytes) -> None:
        match = (_PLAIN_LINE if self._chain is None else _SIGNED_LINE).fullmatch(line)
        if match is None:
            raise _incomplete("A chunk's header is malformed.")
        size = int(match[1], 16)
        self._chunk_signature = "" if self._chain is None else match[2].decode()
        self._check_size(size)
        self._left_bytes -= size
        self._chunk_left_bytes = size
        self._chunk_hash = hashlib.sha256()
        self._state = _State.DATA if size else _State.TRAILER
        if not size:
            self._check_chunk()

    def _check_size(self, size: int) -> None:
        if size > self._left_bytes or (not size and self._left_bytes):
            raise _incomplete("The chunks do not add up to x-amz-decoded-content-length.")
        if size and self._small_chunk_seen:
            raise S3Error(
                "InvalidChunkSizeError", f"Only the last chunk may be under {MIN_CHUNK_BYTES} bytes."
            )
        self._small_chunk_seen = size < MIN_CHUNK_BYTES

    def _check_chunk(self) -> None:
        if self._chain is not None:
            self._chain.check_chunk(self._chunk_hash.hexdigest(), self._chunk_signature)

    def _take_trailer(self, line: bytes) -> None:
        if not line:
            self._end()
            return
        self._trailer_bytes += len(line)
        match = _TRAILER_LINE.fullmatch(line)
        if match is None or self._trailer_bytes > MAX_TRAILER_BYTES:
            raise S3Error("MalformedTrailerError", "A trailer is malformed or too long.")
        name = match[1].decode().lower()
        signature = name == _TRAILER_SIGNATURE and self._chain is not None and bool(self._trailers_due)
        if name in self._trailers or not (signature or name in self._trailers_due):
            raise S3Error("MalformedTrailerError", f"The trailer {name} was not announced, or came twice.")
        self._trailers[name] = match[2].decode()

    def _end(self) -> None:
        """The blank line: the body is complete; signed trailers must be signed."""
        self._state = _State.DONE
        signature = self._trailers.pop(_TRAILER_SIGNATURE, "")
        if self._chain is not None and self._trailers_due:
            text = "".join(f"{name}:{value}\n" for name, value in sorted(self._trailers.items()))
            self._chain.check_trailer(hashlib.sha256(text.encode()).hexdigest(), signature)


def _incomplete(message: str) -> S3Error:
    return S3Error("IncompleteBody", message)
