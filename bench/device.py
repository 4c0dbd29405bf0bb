"""Weights to a GPU: from host memory and from the store, each against what the links alone can do.

The limits are measured in the same run: one pinned buffer copied over and over (host to device), and a bare socket
reader, by the number of connections that gives it most (the link to the store). Ours goes the engine's own way:
a node in a process of its own, with pooled memory, lands and checks every extent, and what it lands is sent from here
through the pinned ring on a side stream. It needs a CUDA device; `bench/GPU.md` says what else is checked on one.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from bench.rows import Row, compare
from bench.servers import ours
from bench.starts import blob
from bench.starts.blob import MIB, TENSOR_BYTES
from bench.starts.device_node import Fds, Node, node_of
from bench.starts.limit import RANGE_BYTES, bare_bytes_per_s
from inference.devices import parse_device
from inference.engine.gpu.attach import LandedBytes
from inference.engine.gpu.copier import Copier, Target
from inference.engine.gpu.device import Device, DeviceError, open_device
from inference.engine.gpu.ring import WHILE_LANDING, Ring, parts_of
from storage.client.sdk import Endpoint
from weights_cache.memory.view import open_landing
from weights_cache.model.revision import Revision
from weights_cache.reading.fetch import BLOB_BUCKET

HOST_SHARE = 0.8  # of the copy rate, from host memory
STORE_SHARE = 1 / 1.2  # of the slower of link and copy, from the store
LARGE_BYTES = 64 * MIB  # of the ranges by which a bare reader is fastest
LIMIT_BYTES = 64 * MIB
READERS = (4, 8, 12)  # connections of the bare reader, of which the fastest is the limit


@dataclass(frozen=True, slots=True)
class Run:
    """Seconds of one load from the store and of one from host memory, and of the limits beside them.

    `link_s` is by ranges as large as an extent, `fastest_s` by larger ones.
    """

    store_s: float
    host_s: float
    link_s: float
    fastest_s: float
    copy_s: float


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--runs", type=int, default=5, help="runs of each way (5)")
    parser.add_argument("--megabytes", type=int, default=4096, help="size of the model in MiB (4096)")
    parser.add_argument("--device", type=parse_device, default="cuda:0", help="the GPU (cuda:0)")


def measure(options: argparse.Namespace, say: Callable[[str], None]) -> tuple[list[Row], list[str]]:
    """Rows and notes."""
    try:
        device = open_device(options.device)
    except DeviceError as error:
        raise SystemExit(f"{error.message}. This benchmark needs a CUDA device.") from error
    if device is None:
        raise SystemExit("the CPU maps its weights: there is nothing to copy. Name a CUDA device.")
    runs = measure_on(device, options.megabytes, options.runs, say)
    return rows_of(runs, options.megabytes * MIB), [
        f"one model in tensors of {TENSOR_BYTES // MIB} MiB; store and node are processes here, HTTP over loopback",
        f"slots of {Ring().slot_bytes // MIB} MiB: {Ring().num_slots}, {WHILE_LANDING.num_slots} while bytes land",
        "every extent is verified as it lands; the first run of each way is not counted",
    ]


def measure_on(device: Device, megabytes: int, num_runs: int, say: Callable[[str], None]) -> list[Run]:
    """Load a model of this size over and over."""
    with tempfile.TemporaryDirectory(prefix="nearfield-bench-") as scratch:
        path = Path(scratch) / "model.safetensors"
        revision = blob.made(path, max(1, megabytes * MIB // TENSOR_BYTES), "device")
        with ours(Path(scratch) / "store") as served:
            asyncio.run(blob.put(served.store, revision, path))
            with node_of(served.store, revision, Path(scratch)) as node:
                runs = []
                for number in range(num_runs + 1):
                    runs.append(_run(device, node, served.store, revision))
                    say(f"run {number}: {runs[-1]}")
    return runs[1:]


def _run(device: Device, node: Node, store: Endpoint, revision: Revision) -> Run:
    """Memory of the landing is there before, as between two models of a node; each copy maps it anew."""
    num_bytes = revision.files[0].size
    started = time.perf_counter()
    with node.landed() as fds:
        copy_model(device, fds, revision, WHILE_LANDING)
        store_s = time.perf_counter() - started
        started = time.perf_counter()
        copy_model(device, fds, revision, Ring())
        host_s = time.perf_counter() - started
    link_s, fastest_s = (_link_s(store, revision, each) for each in (RANGE_BYTES, LARGE_BYTES))
    return Run(store_s, host_s, link_s, fastest_s, num_bytes / copy_bytes_per_s(device))


def _link_s(store: Endpoint, revision: Revision, range_bytes: int) -> float:
    """What the store's bytes take at the rate of the fastest bare reader by such ranges."""
    num_bytes, key = revision.files[0].size, revision.files[0].blake3
    memory = memoryview(bytearray(min(num_bytes, 1 << 30)))
    rates = [bare_bytes_per_s(store, BLOB_BUCKET, key, memory, (each, range_bytes)) for each in READERS]
    return num_bytes / max(rates)


def copy_model(device: Device, fds: Fds, revision: Revision, ring: Ring) -> Copier:
    """The engine's way of a landing's bytes to the device, without a model around them."""
    view = open_landing(revision, *fds)
    targets = {
        index: Target(device.empty(tensor.length), torch.uint8)
        for index, tensor in enumerate(revision.tensors)
    }
    copier = Copier(device, ring, LandedBytes(view), targets)
    copier.run([*parts_of(revision.extents, revision.tensors, view.layout)])
    return copier


def copy_bytes_per_s(device: Device, num_copies: int = 64) -> float:
    """What the link to the device gives: a pinned buffer, again and again."""
    source, target = device.pinned(LIMIT_BYTES), device.empty(LIMIT_BYTES)
    stream, done = device.stream(), device.event()
    device.copy(stream, target, source)
    done.record(stream)
    done.synchronize()
    started = time.perf_counter()
    for _ in range(num_copies):
        device.copy(stream, target, source)
    done.record(stream)
    done.synchronize()
    return num_copies * LIMIT_BYTES / (time.perf_counter() - started)


def rows_of(runs: list[Run], num_bytes: int) -> list[Row]:
    """Rates in GB/s: ours against the limit."""
    gigabytes = num_bytes / 1e9

    def row(what: str, seconds: list[float], limits: list[float], target: float) -> Row:
        rates = gigabytes / median(seconds), gigabytes / median(limits)
        return compare(f"{what}, {gigabytes:.2f} GB", *rates, "GB/s", better="higher", target=target)

    copies, hosts = [run.copy_s for run in runs], [run.host_s for run in runs]
    stores = [run.store_s for run in runs]
    slower = [max(run.copy_s, run.link_s) for run in runs]
    fastest = [max(run.copy_s, run.fastest_s) for run in runs]
    return [
        row("host memory to device, against the copy alone", hosts, copies, HOST_SHARE),
        row("store to device, against the slower link", stores, slower, STORE_SHARE),
        row("the same, against the fastest bare reader", stores, fastest, STORE_SHARE),
    ]
