"""What this machine has: Python, packages, disk, names, limits, clock, GPUs. Each check looks and changes nothing."""

import ctypes
import importlib.metadata
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from deploy.doctor.finding import Finding
from weights_cache.memory.file_map import can_lock, lift_lock_limit

NEEDED_DISK_BYTES = 2 * 1024**3
SLOW_DISK_BYTES_PER_S = 50e6
SLOW_FSYNC_MS = 50.0
PROBE_BYTES = 64 * 1024 * 1024
MUCH_BYTES = 1024**4  # more than the weights of any one model
LEAST_DESCRIPTORS = 1024
GPU_DEADLINE_S = 10.0
LOOPBACK = "127.0.0.1"
TIMEX_BYTES = 256  # the kernel's struct timex has 208
TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised


def python(_state: Path) -> Iterator[Finding]:
    """The interpreter's version."""
    version = sys.version.split()[0]
    yield Finding("python", sys.version_info >= (3, 11), version, "Install Python 3.11 or newer.")


def packages(_state: Path) -> Iterator[Finding]:
    """Those that a platform cannot do without."""
    for name in ("torch", "transformers", "uvloop", "httptools", "awscrt"):
        try:
            yield Finding(name, well=True, seen=importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, well=False, seen="missing", fix="Run `make setup`.")


def disk(state: Path) -> Iterator[Finding]:
    """Room, and how fast bytes and a single sync go, where the state folder is or will be."""
    folder = next(path for path in (state.absolute(), *state.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(folder).free
    more = "Free some, or use --state DIR."
    yield Finding("disk space", free >= NEEDED_DISK_BYTES, f"{free / 1e9:.1f} GB free", more)
    try:
        rate, fsync_ms = _disk_speed(folder)
    except OSError as error:
        fix = f"Make {folder} writable for you, or use --state DIR."
        yield Finding("disk speed", well=False, seen=f"nothing can be written: {error.strerror}", fix=fix)
        return
    fix = "Every acknowledged object waits for it: take a faster disk with --state DIR."
    yield Finding(
        "disk speed", rate > SLOW_DISK_BYTES_PER_S, f"{rate / 1e6:.0f} MB/s written and synced", fix
    )
    yield Finding("disk fsync", fsync_ms < SLOW_FSYNC_MS, f"{fsync_ms:.1f} ms", fix)


def _disk_speed(folder: Path) -> tuple[float, float]:
    """(bytes a second, ms of one sync)."""
    with tempfile.TemporaryFile(dir=folder) as file:
        started = time.perf_counter()
        file.write(b"\0" * PROBE_BYTES)
        file.flush()
        os.fsync(file.fileno())
        rate = PROBE_BYTES / (time.perf_counter() - started)
        started = time.perf_counter()
        file.write(b"x")
        file.flush()
        os.fsync(file.fileno())
        return rate, 1000 * (time.perf_counter() - started)


def resolver(_state: Path) -> Iterator[Finding]:
    """`localhost`, by which every address that we print is reached."""
    try:
        address = socket.getaddrinfo("localhost", 443, socket.AF_INET)[0][4][0]
    except socket.gaierror as error:
        fix = "Add `127.0.0.1 localhost` to /etc/hosts."
        yield Finding("localhost", well=False, seen=str(error), fix=fix)
    else:
        yield _loopback(str(address))


def _loopback(address: str) -> Finding:
    """Named so, and there: a container may have only the other family's."""
    if address != LOOPBACK:
        return Finding("localhost", well=False, seen=address, fix="Mend /etc/hosts.")
    try:
        with socket.socket() as here:
            here.bind((LOOPBACK, 0))
            return Finding("localhost", well=True, seen=address)
    except OSError as error:
        fix = "As root: ip link set lo up; ip addr add 127.0.0.1/8 dev lo"
        return Finding("localhost", well=False, seen=f"{address}: {error.strerror}", fix=fix)


def descriptors(_state: Path) -> Iterator[Finding]:
    """How many files and connections one process may have open."""
    import resource  # noqa: PLC0415 - POSIX only; the command line itself loads anywhere

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield Finding("open files", soft >= LEAST_DESCRIPTORS, f"at most {soft}", "Run `ulimit -n 4096` first.")


def locked_memory(_state: Path) -> Iterator[Finding]:
    """Never a fault: where it may not be locked, the same bytes are copied."""
    lift_lock_limit()
    if can_lock(MUCH_BYTES):
        seen = "any amount: weights of a store on this host are mapped"
    else:
        seen = (
            "limited, so weights of a store on this host that exceed `ulimit -l` are copied instead of mapped"
        )
    yield Finding("locked memory", well=True, seen=seen)


def clock(_state: Path) -> Iterator[Finding]:
    """Whether something keeps it. Alone on a machine that is no fault; `fleet.skew` compares it with others'."""
    state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(TIMEX_BYTES))
    kept = "kept by a time server" if state not in {-1, TIME_ERROR} else "free-running"
    note = "" if kept != "free-running" else "; hosts of a fleet need NTP: signatures and rows carry times"
    yield Finding("clock", well=True, seen=f"{kept}{note}")


def gpu(_state: Path) -> Iterator[Finding]:
    """The GPUs that the driver shows, and whether torch can use them. None is no fault: nodes compute on the CPU."""
    found = gpus()
    if not found:
        yield Finding("gpu", well=True, seen="none; nodes compute on the CPU")
        return
    is_cpu_build = importlib.metadata.version("torch").endswith("+cpu")
    fix = "This torch is a CPU build: run `make setup` without TORCH_INDEX."
    yield Finding("gpu", not is_cpu_build, "; ".join(found), fix)


def gpus() -> list[str]:
    """`name, memory, driver` of each, by number; empty without a driver."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=GPU_DEADLINE_S, check=True)
    except (subprocess.SubprocessError, OSError):
        return []
    return done.stdout.splitlines()
