"""Region state: from a store in another process, over HTTP, to tensors; against a bare socket reader and two peers.

Every loader has a process of its own and its imports done, and reads the same object; they take turns. The limit is
of the number of connections that was fastest (medians of the rounds).
"""

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bench import blob, loader_peers
from bench.blob import MIB, TENSOR_BYTES
from bench.limit import bare_bytes_per_s
from bench.loaders import Order
from bench.rows import Row, compare
from bench.servers import Missing, Served, ours
from storage.client.sdk import Endpoint
from weights_cache.buffers import Buffer
from weights_cache.fetch import BLOB_BUCKET
from weights_cache.strict import parse

CONNECTIONS = (2, 3, 4, 8)
OF_LIMIT = 1 / 1.15  # the issue's: at most 1.15x of bytes / limit
TARGETS = {"boto3": 2.0, "runai": 1.0}  # the issue's: twice boto3, ahead of the streamer
NAMES = {"boto3": "boto3's TransferManager and safetensors", "runai": "runai-model-streamer"}
IN_MEMORY = Path("/dev/shm")  # noqa: S108 - where the peer's download lands: memory, not a disk
MAX_ANSWER_BYTES = 4096

Say = Callable[[str], None]


class Broken(Exception):
    """A loader failed, or loaded other bytes than the others."""


@dataclass(slots=True)
class Timed:
    """Seconds by loader, and by number of connections of the bare reader."""

    num_bytes: int
    loaders: dict[str, list[float]] = field(default_factory=dict)
    bare: dict[int, list[float]] = field(default_factory=dict)

    def limit(self) -> tuple[float, int]:
        """Seconds of the fastest bare reader, and how many connections it has."""
        return min((median(seconds), number) for number, seconds in self.bare.items())


class Contestant:
    """A loader's process: `load` sends an order and waits for its answer."""

    def __init__(self, name: str, process: "subprocess.Popen[str]", errors: Any) -> None:
        self.name = name
        self._process, self._errors = process, errors

    def load(self, order: Order) -> tuple[float, str]:
        """Seconds, and the digest of the last tensor. Raises: Broken with its last words."""
        told = self._process
        if told.stdin is None or told.stdout is None:
            raise Broken(f"{self.name} has no pipes")
        try:
            told.stdin.write(order.line())
            told.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: there is no answer either
        line = told.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise Broken(f"{self.name} failed: {self._errors.read()[-1000:]}")
        answer: Any = parse(line.encode(), MAX_ANSWER_BYTES)
        return float(answer["seconds"]), str(answer["digest"])


@contextmanager
def contestant(name: str, packages: Path | None = None) -> Iterator[Contestant]:
    """A loader's process for the block; `packages` comes before all else on its path."""
    path = os.pathsep.join(str(each) for each in (packages, *sys.path) if each)
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.loaders", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        with process:
            yield Contestant(name, process, errors)
            if process.stdin is not None:
                process.stdin.close()


def measure(sizes_mib: Sequence[int], num_runs: int, cache: Path, say: Say) -> tuple[list[Row], list[str]]:
    """Rows and notes."""
    rows: list[Row] = []
    notes = [
        "region state: `pooled` lands in memory populated before, as on a node that is up; `fresh` does not"
    ]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nearfield-bench-")))
        memory = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="nearfield-bench-", dir=IN_MEMORY))
        )
        served = stack.enter_context(ours(folder / "store"))
        loaders = [stack.enter_context(contestant(name)) for name in ("pooled", "fresh", "boto3")]
        loaders += _streamer(stack, cache, notes)
        for size_mib in sizes_mib:
            order = _put(served, folder, memory, size_mib)
            timed = _alternate(order, loaders, num_runs, say)
            rows += _rows(timed, num_runs)
            notes.append(_note(timed))
    return rows, notes


def _streamer(stack: ExitStack, cache: Path, notes: list[str]) -> list[Contestant]:
    try:
        packages = loader_peers.install(cache)
    except Missing as error:
        notes.append(f"a peer is left out: {error}")
        return []
    return [stack.enter_context(contestant("runai", packages))]


def _put(served: Served, folder: Path, memory: Path, size_mib: int) -> Order:
    """A model of that size in the store, and what to load of it."""
    path = folder / f"{size_mib}.safetensors"
    revision = blob.made(path, max(1, size_mib * MIB // TENSOR_BYTES), f"of-{size_mib}")
    asyncio.run(blob.put(served.store, revision, path))
    path.unlink()
    written = folder / f"{size_mib}.revision"
    written.write_bytes(revision.to_json())
    entry, store = revision.files[0], served.store
    return Order(
        store.url,
        store.access_key,
        store.secret,
        BLOB_BUCKET,
        entry.blake3,
        entry.size,
        str(written),
        str(memory),
    )


def _alternate(order: Order, loaders: Sequence[Contestant], num_runs: int, say: Say) -> Timed:
    timed = Timed(order.num_bytes)
    for number in range(num_runs + 1):
        bare = _bare(order.store, order)
        answers = {each.name: each.load(order) for each in loaders}
        if len({digest for _, digest in answers.values()}) != 1:
            raise Broken(f"the loaders have different bytes: {answers}")
        if number:  # the first round warms page caches, byte code and the peers' clients
            for name, (seconds, _) in answers.items():
                timed.loaders.setdefault(name, []).append(seconds)
            for num_connections, seconds in bare.items():
                timed.bare.setdefault(num_connections, []).append(seconds)
            told = ", ".join(f"{name} {runs[-1]:.2f}" for name, runs in timed.loaders.items())
            say(f"{order.num_bytes / 1e9:.2f} GB: limit {min(bare.values()):.2f} s, {told}")
    return timed


def _bare(store: Endpoint, order: Order) -> Mapping[int, float]:
    """Seconds by number of connections, into memory that is there."""
    memory = Buffer(order.num_bytes)
    memory.populate(0, order.num_bytes)
    found = {}
    with memory.view()[: order.num_bytes] as view:
        for number in CONNECTIONS:
            found[number] = order.num_bytes / bare_bytes_per_s(store, order.bucket, order.key, view, number)
    memory.close()
    return found


def _rows(timed: Timed, num_runs: int) -> list[Row]:
    limit_s, num_connections = timed.limit()
    seconds = {name: median(runs) for name, runs in timed.loaders.items()}
    gb = f"{timed.num_bytes / 1e9:.2f} GB"

    def row(what: str, name: str, peer_s: float, target: float | None) -> Row:
        return compare(f"{gb}, {what}", seconds[name], peer_s, "s", better="lower", target=target)

    limited = f"against a bare socket reader of {num_connections} connections, which checks nothing"
    return [
        row(
            f"store to tensors, every byte checked, {limited}, median of {num_runs}",
            "pooled",
            limit_s,
            OF_LIMIT,
        ),
        row("the same into fresh memory, against the same reader", "fresh", limit_s, None),
        *(
            row(f"against {NAMES[name]}", "pooled", seconds[name], TARGETS[name])
            for name in NAMES
            if name in seconds
        ),
    ]


def _note(timed: Timed) -> str:
    limits = ", ".join(f"{number}: {median(runs):.3f}" for number, runs in timed.bare.items())
    limit_s, _ = timed.limit()
    rate = timed.num_bytes / limit_s / 1e9
    return f"{timed.num_bytes / 1e9:.2f} GB, bare reader by connections (s): {limits}; limit {rate:.2f} GB/s"
