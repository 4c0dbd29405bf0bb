"""What a store counts of its answers, and how much room its disk has."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

    from wire.figures.metrics import Metrics, Reading
    from wire.listener.exchange import Exchange

UNREAD: Final = "none"  # of a request that was refused before it was known what it is


class StoreFigures:
    """The figures of one store. Operations are S3's names for them, `s3.HANDLERS`."""

    def __init__(self, metrics: Metrics, root: Path) -> None:
        self._root = root
        self._requests = metrics.counter(
            "nearfield_store_requests_total", "Answered, by S3 operation and status.", "operation", "status"
        )
        self._seconds = metrics.histogram(
            "nearfield_store_request_seconds", "From a request's head to its answer's end.", "operation"
        )
        self._received = metrics.counter(
            "nearfield_store_received_bytes_total", "Of bodies, as their heads said.", "operation"
        )
        self._broken = metrics.counter(
            "nearfield_store_broken_answers_total",
            "Whose client left, or that failed under way.",
            "operation",
        )
        metrics.gauge("nearfield_store_disk_bytes", "Of the disk that the store is on.", self._size)
        metrics.gauge("nearfield_store_disk_free_bytes", "That the store may still use.", self._free)

    def ended(self, exchange: Exchange, operation: str, *, whole: bool) -> None:
        """A request is over; `whole` if its answer went out to its end."""
        self._requests.add(1, operation, str(exchange.status or 0))
        self._seconds.observe(time.perf_counter() - exchange.started, operation)
        if exchange.head.content_length:
            self._received.add(exchange.head.content_length, operation)
        if not whole:
            self._broken.add(1, operation)

    def _size(self) -> Reading:
        disk = os.statvfs(self._root)
        return (((), float(disk.f_blocks * disk.f_frsize)),)

    def _free(self) -> Reading:
        disk = os.statvfs(self._root)
        return (((), float(disk.f_bavail * disk.f_frsize)),)
