"""`nearfield doctor`: what this machine and this platform need, each finding with its fix beside it."""

import asyncio
import importlib.metadata
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from deploy import credentials, up
from deploy.client import ApiError, Client, Unreachable
from deploy.config.read import load
from deploy.fleet import SYSTEM_GRANTS
from deploy.roles import endpoint
from deploy.secrets import SecretsError
from storage.client.probe import Capabilities, probe
from storage.client.sdk import S3, Endpoint, StoreError
from weights_cache.file_map import can_lock, lift_lock_limit

NEEDED_DISK_BYTES = 2 * 1024**3
SLOW_FSYNC_MS = 50.0
PROBE_BYTES = 64 * 1024 * 1024
MUCH_BYTES = 1024**4  # more than the weights of any one model
FIT = "creation once, conditional reads, ranges and copies hold"
PROBED_BUCKET = "nearfield-system"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: is it well, what was seen, and what to do if not."""

    name: str
    well: bool
    seen: str
    fix: str = ""


def examine(state: Path) -> list[Finding]:
    """Every finding, in the order in which a start needs them."""
    checks: tuple[Callable[[Path], Iterator[Finding]], ...] = (
        _python,
        _packages,
        _disk,
        _resolver,
        _descriptors,
        _locked_memory,
        _stores,
        _engines,
        _platform,
    )
    return [finding for check in checks for finding in check(state)]


def _python(_state: Path) -> Iterator[Finding]:
    version = sys.version.split()[0]
    yield Finding("python", sys.version_info >= (3, 11), version, "Install Python 3.11 or newer.")


def _packages(_state: Path) -> Iterator[Finding]:
    for name in ("torch", "transformers", "uvloop", "httptools", "awscrt"):
        try:
            yield Finding(name, well=True, seen=importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, well=False, seen="missing", fix="Run `make setup`.")


def _disk(state: Path) -> Iterator[Finding]:
    folder = next(p for p in (state, *state.parents) if p.exists())
    free = shutil.disk_usage(folder).free
    yield Finding(
        "disk space", free >= NEEDED_DISK_BYTES, f"{free / 1e9:.1f} GB free", "Free some, or use --state DIR."
    )
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
        fsync_ms = 1000 * (time.perf_counter() - started)
    fix = "Every acknowledged object waits for it: take a faster disk with --state DIR."
    yield Finding("disk speed", rate > 50e6, f"{rate / 1e6:.0f} MB/s written and synced", fix)
    yield Finding("disk fsync", fsync_ms < SLOW_FSYNC_MS, f"{fsync_ms:.1f} ms", fix)


def _resolver(_state: Path) -> Iterator[Finding]:
    try:
        address = socket.getaddrinfo("localhost", 443, socket.AF_INET)[0][4][0]
    except socket.gaierror as error:
        yield Finding(
            "localhost", well=False, seen=str(error), fix="Add `127.0.0.1 localhost` to /etc/hosts."
        )
    else:
        yield Finding("localhost", well=address == "127.0.0.1", seen=str(address), fix="Mend /etc/hosts.")


def _descriptors(_state: Path) -> Iterator[Finding]:
    import resource  # noqa: PLC0415 - POSIX only; the command line itself loads anywhere

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield Finding("open files", soft >= 1024, f"at most {soft}", "Run `ulimit -n 4096` first.")


def _locked_memory(_state: Path) -> Iterator[Finding]:
    """Never a fault: where it may not be locked, the same bytes are copied."""
    lift_lock_limit()
    if can_lock(MUCH_BYTES):
        yield Finding(
            "locked memory", well=True, seen="any amount: weights of a store on this host are mapped"
        )
        return
    seen = "limited, so weights of a store on this host that exceed `ulimit -l` are copied instead of mapped"
    yield Finding("locked memory", well=True, seen=seen)


def _stores(state: Path) -> Iterator[Finding]:
    """What the store of each region can do, asked of it; nothing where no platform was ever made."""
    path = state / "nearfield.toml"
    if not path.exists():
        return
    config = load(path)
    for region, entry in config.regions.items():
        name, fix = f"store {region}", f"{entry.store} must be up, and its credentials must hold."
        try:
            found = asyncio.run(_probed(endpoint(config, region, SYSTEM_GRANTS)))
        except (StoreError, SecretsError) as error:
            yield Finding(name, well=False, seen=str(error), fix=fix)
            continue
        faults = "; ".join(found.faults())
        fix = f"No model can be served from {entry.store}: name another endpoint as `store`."
        yield Finding(name, not faults, faults or "; ".join((FIT, *found.remarks())), fix)


def _engines(state: Path) -> Iterator[Finding]:
    """The programs of the external engines that the operator defined; nothing where there is none."""
    path = state / "nearfield.toml"
    for name, made in (load(path).engines if path.exists() else {}).items():
        programs = [words[0] for words in (made.command, made.prepare) if words]
        absent = [program for program in programs if shutil.which(program) is None]
        seen = f"no {', '.join(absent)} on this host" if absent else " ".join(programs)
        fix = f"Install it, or correct [engines.{name}] in {path}; another host may be the one that has it."
        yield Finding(f"engine {name}", not absent, seen, fix)


async def _probed(store: Endpoint) -> Capabilities:
    async with S3(store) as s3:
        await s3.ensure_bucket(PROBED_BUCKET)
        return await probe(s3, PROBED_BUCKET)


def _platform(state: Path) -> Iterator[Finding]:
    pid = up.holder(state)
    if pid is None:
        yield Finding("platform", well=False, seen=f"not running in {state}", fix="Start it: nearfield up")
        return
    yield Finding("platform", well=True, seen=f"process {pid}")
    try:
        regions = Client(credentials.load(state), admin=True).get("/nearfield/status").body["regions"]
    except (Unreachable, ApiError, credentials.NoPlatform) as error:
        yield Finding("edge", well=False, seen=str(error), fix=f"Look into {state}/logs/edge-local.log")
        return
    for name, seen in regions.items():
        heard = seen.get("heard_s")
        well = heard is not None and heard < 5
        words = f"heard {heard:.1f} s ago, {seen['rtt_ms']:.1f} ms away" if well else "not heard"
        yield Finding(f"region {name}", well, words, f"Look into {state}/logs/region-{name}.log")
