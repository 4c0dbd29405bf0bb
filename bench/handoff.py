"""Cold landing beside the region's store: its files mapped, against the same bytes read over HTTP.

One store process, one model of about 1 GB in it twice: as any S3 client uploads it (equal parts, which share one
file), and in growing parts (a file each, which cannot be mapped whole). Each landing is by a fresh host tier with
all checks on, from the ask to a view of every verified byte as an engine has it; the ways alternate. HTTP lands in
fresh memory, as on a node without a pool, and in memory that is there already.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.blast import Line
from bench.rows import Row, compare
from bench.servers import Served, ours
from bench.starts import blob
from bench.starts.blob import MIB, TENSOR_BYTES
from storage.client.endpoint import SOCKET_NAME
from storage.client.sdk import Endpoint, url_path
from weights_cache.cache import HostTier
from weights_cache.memory.view import open_landing
from weights_cache.model.revision import Revision
from weights_cache.reading.fetch import BLOB_BUCKET
from weights_cache.reading.handoff import StoreHandoff

GROWING_BYTES = 16 * MIB  # each part of the second upload is larger than the one before by 1 MiB
TARGET = 2.0  # HTTP moves each byte twice more (socket and landing), and both ways verify it
NEVER = 1e9

WAYS = ("mapped", "copied", "http", "http, pooled")


@dataclass(frozen=True, slots=True)
class Landed:
    """One landing: its wall time, and where its bytes came from."""

    seconds: float
    mapped_bytes: int
    copied_bytes: int
    read_bytes: int


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--runs", type=int, default=5, help="alternating runs of each way (5)")
    parser.add_argument("--megabytes", type=int, default=1024, help="size of the model in MiB (1024)")


def measure(options: argparse.Namespace, say: Callable[[str], None]) -> tuple[list[Row], list[str]]:
    """Rows and notes."""
    num_tensors = max(1, options.megabytes * MIB // TENSOR_BYTES)
    with tempfile.TemporaryDirectory(prefix="nearfield-bench-") as scratch:
        folder = Path(scratch)
        whole = blob.made(folder / "whole.safetensors", num_tensors, "whole")
        pieces = blob.made(folder / "pieces.safetensors", num_tensors, "pieces")
        with ours(folder / "store") as served:
            asyncio.run(blob.put(served.store, whole, folder / "whole.safetensors"))
            _put_growing(served.store, pieces, folder / "pieces.safetensors")
            found = _alternate(
                served, folder / "store" / "store" / SOCKET_NAME, (whole, pieces), options.runs, say
            )
    return _rows(found, num_tensors * TENSOR_BYTES), _notes(found, options.runs)


def _put_growing(store: Endpoint, revision: Revision, path: Path) -> None:
    """Each part larger than the first one's place: the object lies in as many files as parts."""
    target = url_path(BLOB_BUCKET, revision.files[0].blake3)
    tags = []
    with Line(store) as line:
        begun = line.call("POST", target, "uploads=").demand(200).data.decode()
        upload = begun.partition("<UploadId>")[2].partition("</UploadId>")[0]
        for number, part in enumerate(_growing(path), 1):
            sent = line.call("PUT", target, f"partNumber={number}&uploadId={upload}", part)
            tags.append(sent.demand(200).headers["etag"])
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>"
            for number, tag in enumerate(tags, 1)
        )
        body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
        line.call("POST", target, f"uploadId={upload}", body).demand(200)


def _growing(path: Path) -> Iterator[bytes]:
    size = GROWING_BYTES
    with path.open("rb") as file:
        while part := file.read(size):
            yield part
            size += MIB


def _alternate(
    served: Served, path: Path, models: tuple[Revision, Revision], num_runs: int, say: Callable[[str], None]
) -> dict[str, list[Landed]]:
    whole, pieces = models
    found: dict[str, list[Landed]] = {way: [] for way in WAYS}
    for number in range(num_runs + 1):
        for way in WAYS:
            landed = _land(served.store, path, pieces if way == "copied" else whole, way)
            if number:  # the first round warms page caches and byte code for all
                found[way].append(landed)
        if number:
            say(", ".join(f"{way} {found[way][-1].seconds:.3f} s" for way in WAYS))
    return found


def _land(store: Endpoint, path: Path, revision: Revision, way: str) -> Landed:
    """One cold landing and a view of it, by a tier of its own."""
    num_bytes = revision.files[0].size + MIB
    handoff = StoreHandoff(path, store) if way in {"mapped", "copied"} else None
    pool_bytes = num_bytes if way == "http, pooled" else 0
    tier = HostTier(store, 2 * num_bytes, pool_bytes=pool_bytes, handoff=handoff)
    _await_pool(tier, pool_bytes)
    started = time.perf_counter()
    landing = tier.land(revision)
    view = open_landing(
        revision, landing.fd, landing.ready_fd, landing.event_fd, landing.mapped, landing.mapped_fds
    )
    view.wait_all()
    seconds = time.perf_counter() - started
    landing.wait()
    view.close()
    told = Landed(seconds, landing.mapped_bytes, landing.copied_bytes, landing.bytes_read)
    tier.close()
    return told


def _await_pool(tier: HostTier, pool_bytes: int) -> None:
    while pool_bytes and tier.pooled_bytes < pool_bytes:
        time.sleep(0.05)


def _rows(found: dict[str, list[Landed]], num_bytes: int) -> list[Row]:
    seconds = {way: [each.seconds for each in runs] for way, runs in found.items()}
    gb = num_bytes / 1e9

    def row(what: str, way: str, peer: str, target: float | None) -> Row:
        words = f"{what}, {gb:.2f} GB, median of {len(seconds[way])}"
        return compare(words, median(seconds[way]), median(seconds[peer]), "s", better="lower", target=target)

    return [
        row("cold landing, mapped by hand-off, against HTTP", "mapped", "http", TARGET),
        row("the same against HTTP into memory that is there already", "mapped", "http, pooled", 1.0),
        compare(
            "the same, slowest mapped, fastest HTTP",
            max(seconds["mapped"]),
            min(seconds["http"]),
            "s",
            better="lower",
        ),
        row("cold landing, copied from descriptors, against HTTP", "copied", "http", 1.0),
        compare(
            "bytes copied by a landing, hand-off against HTTP",
            float(_copied(found["mapped"])),
            float(_copied(found["http"])),
            "B",
            better="lower",
            target=NEVER,
        ),
    ]


def _copied(runs: Sequence[Landed]) -> int:
    """Bytes a landing brought into memory of its own, at most."""
    return max(each.copied_bytes + each.read_bytes for each in runs)


def _notes(found: dict[str, list[Landed]], num_runs: int) -> list[str]:
    last = {way: runs[-1] for way, runs in found.items()}
    told = [
        f"{way}: mapped {each.mapped_bytes:,} B, copied from files {each.copied_bytes:,} B, "
        f"read over HTTP {each.read_bytes:,} B"
        for way, each in last.items()
    ]
    return [
        f"{num_runs} alternating runs of each way against one store process; pages are in the page cache",
        "every byte is verified (XXH3 of each extent) in every way, and seen through an engine's view",
        "a ratio of 1e9 means that nothing was copied",
        *told,
    ]
