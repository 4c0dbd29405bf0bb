"""A GET that is answered with open files instead of bytes: for a process of this host, over the Unix socket.

The caller asks with `x-nearfield-descriptors: 1`. Everything but the body is the S3 answer it would have got:
signature, grants, conditions, range, version, ETag, checksums. The body is one JSON object

    {"length": n, "extents": [[first byte of the object, length, file, offset in that file], ...]}

where `file` counts the descriptors that come beside the body's first bytes, in order. Neighbouring extents of one
file are one. The header `x-nearfield-descriptors` says how many descriptors there are; an answer without it is an
ordinary one, with the bytes. The descriptors cannot write, and the lease on their blobs ends with the connection.
"""

import json
import os
from collections.abc import Sequence

from storage.disk.blobs import Blobs
from storage.disk.leases import Lease, Leases
from storage.fault import S3Error
from storage.index.rows import Extent, Headers
from wire.serve import Exchange

ASK = "x-nearfield-descriptors"
MAX_FILES = 256  # in one answer; a holder has a process's limit, often 1,024, for everything
MAX_EXTENTS = 8192  # 512 KiB of JSON; beyond it the object is in crumbs, and reading it is as good


class OpenFiles:
    """A body of descriptors (`http.reply.Body`). The blobs are leased from here on."""

    def __init__(self, blobs: Blobs, leases: Leases, pieces: Sequence[Extent], first: int) -> None:
        """`pieces` are the object's bytes from `first` on. Raises: S3Error, BlobMissing, OSError."""
        runs = joined(pieces)
        files = list(dict.fromkeys(run.blob for run in runs))
        if len(files) > MAX_FILES or len(runs) > MAX_EXTENTS:
            raise S3Error("InvalidRequest", "The object is in too many pieces to hand over; read its bytes.")
        self._document = _document(runs, files, first)
        self.length = len(self._document)
        self._fds: list[int] = []
        self._lease: Lease | None = leases.take(files)
        try:
            self._fds += [blobs.open(blob) for blob in files]
        except BaseException:
            self.close()
            raise

    async def send(self, exchange: Exchange, status: int, headers: Headers) -> None:
        """Raises: Disconnected, OSError."""
        kept = tuple(pair for pair in headers if pair[0] != "content-type")
        told = (("content-type", "application/json"), (ASK, str(len(self._fds))))
        lease, self._lease = self._lease, None
        if lease is not None:
            exchange.at_end(lease.end)
        await exchange.start(status, kept + told, length=self.length)
        await exchange.send_descriptors(self._document, self._fds)
        await exchange.finish()

    def close(self) -> None:
        """Close our own descriptors; end the lease unless a holder has it."""
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()
        if self._lease is not None:
            self._lease.end()


def joined(pieces: Sequence[Extent]) -> list[Extent]:
    """The same bytes with neighbours of one blob made one: equal parts of an upload are one run of its slab.

    The CRCs of joined extents mean nothing any more.
    """
    runs: list[Extent] = []
    for piece in pieces:
        last = runs[-1] if runs else None
        if last is not None and (last.blob, last.offset + last.length) == (piece.blob, piece.offset):
            runs[-1] = Extent(last.blob, last.offset, last.length + piece.length, 0)
        else:
            runs.append(piece)
    return runs


def _document(runs: Sequence[Extent], files: Sequence[str], first: int) -> bytes:
    numbers = {blob: number for number, blob in enumerate(files)}
    extents = []
    at = first
    for run in runs:
        extents.append([at, run.length, numbers[run.blob], run.offset])
        at += run.length
    return json.dumps({"length": at - first, "extents": extents}, separators=(",", ":")).encode()
