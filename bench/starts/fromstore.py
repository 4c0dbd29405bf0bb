"""Region state: from a store in another process to tensors, against a bare socket reader and two peers.

Handed over by the store of the same host, as a node beside it has it; over HTTP on loopback; and over SIMULATED links.
Every loader has a process of its own and its imports done, and reads the same object; they take turns. The limit is
of the bare reader that was fastest (medians of the rounds), whatever its connections and ranges.
"""

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from bench.link import link
from bench.rows import Row, compare
from bench.servers import HOST, Missing, Served, ours
from bench.starts import blob, overlink, peers
from bench.starts.blob import MIB, TENSOR_BYTES
from bench.starts.contestants import Broken, Contestant, contestant
from bench.starts.limit import RANGE_BYTES, Shape, bare_s
from bench.starts.loaders import Order
from storage.client.endpoint import SOCKET_NAME
from weights_cache.reading.fetch import BLOB_BUCKET
from wire.address import split_address

SHAPES: Sequence[Shape] = ((2, RANGE_BYTES), (4, RANGE_BYTES), (8, RANGE_BYTES), (8, 4 * RANGE_BYTES))
OURS = ("handed", "pooled", "fresh")
OF_LIMIT = 1 / 1.15  # the issue's: at most 1.15x of bytes / limit
TARGETS = {"boto3": 2.0, "runai": 1.0}  # the issue's: twice boto3, ahead of the streamer
NAMES = {"boto3": "boto3's TransferManager and safetensors", "runai": "runai-model-streamer"}
IN_MEMORY = Path("/dev/shm")  # noqa: S108 - where the peer's download lands: memory, not a disk

Say = Callable[[str], None]


@dataclass(slots=True)
class Timed:
    """Seconds by loader, and by shape of the bare reader."""

    num_bytes: int
    loaders: dict[str, list[float]] = field(default_factory=dict)
    bare: dict[Shape, list[float]] = field(default_factory=dict)

    def limit(self, most_bytes: int = 4 * RANGE_BYTES) -> tuple[float, Shape]:
        """Seconds of the fastest bare reader of ranges up to so large, and its shape."""
        return min((median(runs), shape) for shape, runs in self.bare.items() if shape[1] <= most_bytes)


def measure(sizes_mib: Sequence[int], num_runs: int, cache: Path, say: Say) -> tuple[list[Row], list[str]]:
    """Rows and notes."""
    rows: list[Row] = []
    notes = [
        "`handed`: files of a store of this host, mapped; `pooled`: into memory that is there, as on a node that is up",
        "on loopback two cores serve, receive and verify at once; ranges of 64 MiB save the store requests",
        "links are SIMULATED by a relay of ours",
    ]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nearfield-bench-")))
        memory = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="nearfield-bench-", dir=IN_MEMORY))
        )
        served = stack.enter_context(ours(folder / "store"))
        far = stack.enter_context(link(split_address(served.store.netloc)[1]))
        loaders = [stack.enter_context(contestant(name)) for name in (*OURS, "boto3")]
        loaders += _streamer(stack, cache, notes)
        for size_mib in sizes_mib:
            order = _put(served, folder, memory, size_mib)
            timed = _alternate(order, loaders, num_runs, say)
            rows += _rows(timed, num_runs)
            notes.append(_note(timed))
            there = replace(order, url=f"http://{HOST}:{far.port}")
            rows += overlink.measure(far, there, loaders[OURS.index("pooled")], num_runs, say)
    return rows, notes


def _streamer(stack: ExitStack, cache: Path, notes: list[str]) -> list[Contestant]:
    try:
        packages = peers.install(cache)
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
        str(folder / "store" / "store" / SOCKET_NAME),
    )


def _alternate(order: Order, loaders: Sequence[Contestant], num_runs: int, say: Say) -> Timed:
    timed = Timed(order.num_bytes)
    for number in range(num_runs + 1):
        bare = bare_s(order.store, order.bucket, order.key, order.num_bytes, SHAPES)
        answers = {each.name: each.load(order) for each in loaders}
        if len({digest for _, digest in answers.values()}) != 1:
            raise Broken(f"the loaders have different bytes: {answers}")
        if number:  # the first round warms page caches, byte code and the peers' clients
            for name, (seconds, _) in answers.items():
                timed.loaders.setdefault(name, []).append(seconds)
            for shape, seconds in bare.items():
                timed.bare.setdefault(shape, []).append(seconds)
            told = ", ".join(f"{name} {runs[-1]:.2f}" for name, runs in timed.loaders.items())
            say(f"{order.num_bytes / 1e9:.2f} GB: limit {min(bare.values()):.2f} s, {told}")
    return timed


def _rows(timed: Timed, num_runs: int) -> list[Row]:
    limit_s, shape = timed.limit()
    usual_s, usual = timed.limit(RANGE_BYTES)
    seconds = {name: median(runs) for name, runs in timed.loaders.items()}

    def row(what: str, name: str, peer_s: float, target: float | None) -> Row:
        told = f"{timed.num_bytes / 1e9:.2f} GB, {what}"
        return compare(told, seconds[name], peer_s, "s", better="lower", target=target)

    checked = f"every byte checked, median of {num_runs}, against"
    return [
        row(
            f"store of this host to tensors, handed over, {checked} {_of(shape)}", "handed", limit_s, OF_LIMIT
        ),
        row(f"store to tensors over HTTP on loopback, {checked} {_of(shape)}", "pooled", limit_s, OF_LIMIT),
        row(f"the same against {_of(usual)}", "pooled", usual_s, OF_LIMIT),
        row(f"the same into fresh memory, against {_of(shape)}", "fresh", limit_s, None),
        *(
            row(f"over HTTP on loopback against {NAMES[name]}", "pooled", seconds[name], TARGETS[name])
            for name in NAMES
            if name in seconds
        ),
    ]


def _of(shape: Shape) -> str:
    return f"a bare socket reader of {shape[0]} connections and ranges of {shape[1] // MIB} MiB, which checks nothing"


def _note(timed: Timed) -> str:
    limits = ", ".join(
        f"{each[0]} x {each[1] // MIB} MiB: {median(runs):.3f}" for each, runs in timed.bare.items()
    )
    rate = timed.num_bytes / timed.limit()[0] / 1e9
    return f"{timed.num_bytes / 1e9:.2f} GB, bare readers (s): {limits}; limit {rate:.2f} GB/s"
