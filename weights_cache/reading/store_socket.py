"""Asking the store of this host for open files: one connection to its Unix socket, which is also the lease.

The request is an S3 GET like any other, signed as for HTTP, with one header more (`storage.http.handover` has the
answer's form). What comes back is looked at as strictly as if it came from afar: descriptors that are missing, or
extents that leave gaps or lie past the end of their file, are refused. What the bytes are worth is the caller's check.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from storage.client.sdk import Endpoint, sign
from weights_cache.reading.fetch import MAX_HEAD_BYTES, ReadError, Signer, parsed_head
from weights_cache.reading.patience import STALL_S
from wire.listener.descriptors import close_all, connect_unix, receive_descriptors

ASK = "x-nearfield-descriptors"
MAX_ANSWER_BYTES = 1 << 20  # twice what 8,192 extents take
RECEIVE_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Run:
    """Bytes `start`..`start + length` of an object lie from byte `at` of the open file `fd`."""

    start: int
    length: int
    fd: int
    at: int


@dataclass(frozen=True, slots=True)
class OpenObject:
    """One object as open files that cannot write. The runs follow one another from its first byte to its last."""

    etag: str
    size: int
    runs: tuple[Run, ...]
    fds: tuple[int, ...]

    def read_into(self, offset: int, view: memoryview) -> None:
        """Copy the object's bytes from `offset` into `view`. Raises ReadError, OSError."""
        for run in self.runs:
            low, high = max(offset, run.start), min(offset + len(view), run.start + run.length)
            if low < high:
                _read_whole(run.fd, run.at + low - run.start, view[low - offset : high - offset])

    def close(self) -> None:
        """Close the files. Once."""
        close_all(self.fds)


class StoreSocket:
    """One connection; what it handed over is leased until `close`. For one thread at a time."""

    def __init__(
        self, path: Path, store: Endpoint, *, signer: Signer = sign, answer_s: float = STALL_S
    ) -> None:
        """Raises OSError if nobody listens there.

        `answer_s`: how long it may say nothing. An old object is read once before it is handed over; one that takes
        longer than this is as well read by ranges, and a store that hangs must not hold a start up twice.
        """
        self._store, self._signer = store, signer
        self._socket = connect_unix(path, answer_s)

    def open_object(self, path: str, etag: str | None = None) -> OpenObject | None:
        """The object at `path` (`/bucket/key`) as open files; None if the store gives bytes only.

        `etag`: the version that must be meant. Raises ReadError.
        """
        fds: list[int] = []
        try:
            head, body = self._exchange(path, etag, fds)
            return _opened(path, head, body, tuple(fds))
        except ReadError:
            close_all(fds)
            raise

    def close(self) -> None:
        """End the lease. The files stay open; nothing keeps the store from deleting their names any more."""
        self._socket.close()

    def _exchange(
        self, path: str, etag: str | None, fds: list[int]
    ) -> tuple[tuple[int, dict[str, str]], bytes]:
        """Ask and read the whole answer; a connection that is broken or out of step is closed. Raises ReadError."""
        try:
            self._socket.sendall(self._request(path, etag))
            return self._answer(fds)
        except OSError as error:
            self.close()
            raise ReadError("handoff_failed", f"{path}: {error}", retryable=True) from error
        except ReadError:
            self.close()
            raise

    def _request(self, path: str, etag: str | None) -> bytes:
        headers: tuple[tuple[str, str], ...] = ((ASK, "1"),)
        if etag is not None:
            headers += (("if-match", f'"{etag}"'),)
        signed = self._signer(self._store, "GET", path, "", headers)
        lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in signed), "", ""]
        return "\r\n".join(lines).encode("latin-1")

    def _answer(self, fds: list[int]) -> tuple[tuple[int, dict[str, str]], bytes]:
        """((status, headers), body); descriptors are added to `fds` as they come, whatever happens after."""
        data = b""
        while (end := data.find(b"\r\n\r\n")) < 0:
            if len(data) > MAX_HEAD_BYTES:
                raise ReadError("not_http", "the store's answer has no end of its head", retryable=False)
            data += self._receive(fds)
        head = parsed_head(data[:end])
        length = head[1].get("content-length", "")
        if not length.isdecimal() or int(length) > MAX_ANSWER_BYTES:
            raise ReadError("wrong_length", "the store's answer is no description of files", retryable=False)
        body = data[end + 4 :]
        while len(body) < int(length):
            body += self._receive(fds)
        return head, body

    def _receive(self, fds: list[int]) -> bytes:
        data, more = receive_descriptors(self._socket, RECEIVE_BYTES)
        fds += more
        if not data:
            raise ConnectionResetError("the store closed the connection")
        return data


def _opened(
    path: str, head: tuple[int, dict[str, str]], body: bytes, fds: tuple[int, ...]
) -> OpenObject | None:
    status, fields = head
    if status != 200:
        raise ReadError(f"status_{status}", f"{path} answered {status}", retryable=status >= 500)
    if fields.get(ASK) is None:
        if fds:
            raise _refused(path)
        return None
    if fields[ASK] != str(len(fds)):
        raise _refused(path)
    try:
        value = json.loads(body)
        size, runs = value["length"], [_run(path, entry, fds) for entry in value["extents"]]
    except (ValueError, KeyError, TypeError) as error:
        raise _refused(path) from error
    if [run.start for run in runs] != _starts(runs) or sum(run.length for run in runs) != size:
        raise _refused(path)
    return OpenObject(fields.get("etag", "").strip('"'), size, tuple(runs), fds)


def _run(path: str, entry: Sequence[object], fds: Sequence[int]) -> Run:
    """One extent of the answer, which must lie inside its file: a mapping past a file's end kills its reader."""
    numbers = [each for each in entry if isinstance(each, int) and not isinstance(each, bool) and each >= 0]
    if len(entry) != 4 or len(numbers) != 4:
        raise _refused(path)
    start, length, file, at = numbers
    if file >= len(fds) or at + length > os.fstat(fds[file]).st_size:
        raise _refused(path)
    return Run(start, length, fds[file], at)


def _starts(runs: Sequence[Run]) -> list[int]:
    """Where runs without gaps would start."""
    reached, starts = 0, []
    for run in runs:
        starts.append(reached)
        reached += run.length
    return starts


def _refused(path: str) -> ReadError:
    return ReadError("handoff_broken", f"{path}: the files handed over make no sense", retryable=False)


def _read_whole(fd: int, at: int, view: memoryview) -> None:
    while view:
        num_bytes = os.preadv(fd, [view], at)
        if not num_bytes:
            raise ReadError("wrong_length", "a file that was handed over ended early", retryable=False)
        at, view = at + num_bytes, view[num_bytes:]
