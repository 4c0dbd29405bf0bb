"""What Prometheus's own clients say of any process, under their names, and of which build it is."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from wire.figures.metrics import Metrics, Reading

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_STATM, _STAT, _FDS = Path("/proc/self/statm"), Path("/proc/self/stat"), Path("/proc/self/fd")
_STARTED_FIELD: Final = 19  # of what stands behind the command's name in /proc/PID/stat


def add_process_figures(metrics: Metrics, role: str, name: str) -> None:
    """Of this process, read when it is asked for; `role` and `name` say whose it is."""
    started_s = _started_s()
    metrics.gauge(
        "nearfield_role_info", "1, of the role and its name.", lambda: (((role, name), 1.0),), "role", "name"
    )
    metrics.total("process_cpu_seconds_total", "User and system time.", lambda: (((), sum(os.times()[:2])),))
    metrics.gauge("process_resident_memory_bytes", "In memory now.", lambda: _of_statm(1))
    metrics.gauge("process_virtual_memory_bytes", "Addresses in use.", lambda: _of_statm(0))
    metrics.gauge(
        "process_open_fds", "Descriptors in use.", lambda: (((), sum(1.0 for _ in _FDS.iterdir()) - 1.0),)
    )
    metrics.gauge("process_start_time_seconds", "When it began, Unix time.", lambda: (((), started_s),))


def _of_statm(column: int) -> Reading:
    return (((), float(int(_STATM.read_text().split()[column]) * _PAGE_BYTES)),)


def _started_s() -> float:
    """By the kernel's clock, so that a fork of a process says its own time."""
    ticks = int(_STAT.read_text().rpartition(")")[2].split()[_STARTED_FIELD])
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / _TICKS_PER_S
