"""The edge as a proxy: processor time, latency, streams and memory beside nginx's, and beside a Python gateway's.

One origin, one client and one core for each proxy in turn; ours runs every check it has (strict gate, key, rate,
choice, phases and receipts), nginx passes on. Clients and origin share the other cores.
"""

import argparse
import datetime as dt
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import uvloop

from bench.llama import cache_folder
from bench.proxy import cpu, gateway, half, load, scale, stage, traces
from bench.proxy.child import MODEL
from bench.proxy.load import Wrong
from bench.proxy.request import body, request
from bench.proxy.stage import Proxy
from bench.rows import Row, compare
from bench.servers import Missing
from deploy.trust import pki

PARTS = ("cpu", "scale", "latency", "sse", "streams", "memory", "traces", "gateway")
OF_NGINX = 0.5  # the issue's: at most twice nginx's processor time, plain and with TLS
CHUNK_US, LATE_MS, IDLE_KIB = 35.0, 50.0, 64.0
CONNECTIONS = (1, 32)
NUM_SSE, SSE_GAP_S = 40, 0.01
NUM_STREAMS, STREAM_GAP_S = 1000, 0.5
NUM_IDLE = 1000
LEAST = 1e-3  # a difference of nothing is this, not a division by zero

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Bench:
    """What every part needs."""

    options: argparse.Namespace
    scratch: Path
    straight: Proxy
    stub: Proxy  # the region: rows, and streams
    authority: pki.LocalAuthority
    say: Say

    @property
    def origin(self) -> str:
        """The address of what answers small requests."""
        return self.straight.address

    @property
    def region(self) -> str:
        """That of what answers with streams."""
        return self.stub.address

    def pair(self, stack: ExitStack, name: str, upstream: str, *, tls: bool) -> tuple[Proxy, Proxy]:
        """Ours and nginx before `upstream`."""
        mine = stage.ours(self.scratch / f"ours-{name}-{tls}", upstream, self.authority, tls=tls)
        authority = self.authority if tls else None
        other = stage.nginx(self.scratch / f"nginx-{name}-{tls}", upstream, authority)
        return stack.enter_context(mine), stack.enter_context(other)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement (3)")
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {','.join(PARTS)}, with commas")
    parser.add_argument("--cache", type=Path, default=cache_folder(), help="where the gateway is installed")


def measure(options: argparse.Namespace, say: Say) -> tuple[list[Row], list[str]]:
    """Rows and notes."""
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM)
    )  # so that the servers end with us
    parts: dict[str, Callable[[Bench], list[Row]]] = {
        "cpu": _cpu,
        "scale": _scale,
        "latency": _latency,
        "sse": _sse,
        "streams": _streams,
        "memory": _memory,
        "traces": _traces,
        "gateway": _gateway,
    }
    rows, notes = (
        list[Row](),
        [_APART if len(stage.cores()[0] | stage.cores()[1]) > 1 else _ONE_CORE],
    )
    with tempfile.TemporaryDirectory(prefix="nearfield-bench-") as name, ExitStack() as stack:
        scratch = Path(name)
        authority = pki.ensure(scratch, dt.datetime.now(dt.UTC))
        stub = stack.enter_context(stage.region(scratch))
        try:
            straight = stack.enter_context(stage.origin(scratch / "origin", stub.address))
        except Missing as error:
            return [], [f"nothing is measured: {error}"]
        bench = Bench(options, scratch, straight, stub, authority, say)
        for part in options.only.split(","):
            say(part)
            try:
                rows += parts[part](bench)
            except (Missing, Wrong) as error:
                notes.append(f"{part} is left out: {error}")
    return rows, [*notes, _SAME]


_APART = (
    "the proxy has one core, client and origin the others; a proxy's processor time is the kernel's own count"
)
_ONE_CORE = "one core for all: processor times stand, latencies do not"
_SAME = "every request: a chat completion of 130 bytes with a key, 512 bytes back; no access log anywhere"


def _cpu(bench: Bench) -> list[Row]:
    rows = []
    for tls in (False, True):
        with ExitStack() as stack:
            mine, other = bench.pair(stack, "cpu", bench.origin, tls=tls)
            if not tls:
                rows += _floor(bench, other)
            for num in CONNECTIONS:
                rounds = cpu.in_turns((mine, other), bench.scratch, num, bench.options.seconds)
                where = f"{num} connections, {'TLS' if tls else 'plain'}, against nginx"
                rows.append(cpu.cost(f"processor time a small request, {where}", rounds, OF_NGINX))
                rows.append(cpu.rate(f"requests a second, {where}", rounds))
    return rows


def _scale(bench: Bench) -> list[Row]:
    return scale.rows(bench.scratch, bench.origin, bench.authority, bench.options.seconds)


def _traces(bench: Bench) -> list[Row]:
    return traces.rows(bench.scratch, bench.origin, bench.authority, bench.options.seconds)


def _floor(bench: Bench, other: Proxy) -> list[Row]:
    """What is left of nginx's processor time before a line of ours runs."""
    with stage.pump(bench.scratch / "pump", bench.origin) as bare:
        rows = []
        for num in CONNECTIONS:
            rounds = cpu.in_turns((bare, other), bench.scratch, num, bench.options.seconds)
            rows.append(cpu.cost(f"the floor: {bare.name}, {num} connections, plain, against nginx", rounds))
        return rows


def _latency(bench: Bench) -> list[Row]:
    with ExitStack() as stack:
        mine, other = bench.pair(stack, "latency", bench.origin, tls=False)
        stand = half.Stand(mine, other, bench.straight, bench.stub, bench.options.seconds)
        return half.rows(stand, bench.scratch)


def _sse(bench: Bench) -> list[Row]:
    with ExitStack() as stack:
        pair = bench.pair(stack, "sse", bench.region, tls=False)
        bare = stack.enter_context(stage.pump(bench.scratch / "pump-sse", bench.region))
        num = round(bench.options.seconds / SSE_GAP_S)
        took = [uvloop.run(load.streams(each, NUM_SSE, num, SSE_GAP_S)) for each in (*pair, bare)]
        mine, other, floor = took
    what = f"processor time a chunk, {NUM_SSE} streams"
    return [
        compare(f"{what}, against the budget", mine.cpu_us, CHUNK_US, "us", better="lower", target=1.0),
        compare(f"{what}, against nginx", mine.cpu_us, other.cpu_us, "us", better="lower"),
        compare(f"{what}, against the floor: {bare.name}", mine.cpu_us, floor.cpu_us, "us", better="lower"),
    ]


def _streams(bench: Bench) -> list[Row]:
    with ExitStack() as stack:
        pair = bench.pair(stack, "streams", bench.region, tls=False)
        num = round(2 * bench.options.seconds / STREAM_GAP_S)
        mine, other = (uvloop.run(load.streams(each, NUM_STREAMS, num, STREAM_GAP_S)) for each in pair)
    latest = [1000 * max(each.late_s) for each in (mine, other)]
    what = f"{NUM_STREAMS} streams at once"
    lost = Row(f"{what}: events lost", mine.lost, other.lost, "", 1.0, 1.0, mine.lost == 0)
    return [
        lost,
        compare(
            f"{what}: the latest event, against the budget",
            latest[0],
            LATE_MS,
            "ms",
            better="lower",
            target=1.0,
        ),
        compare(f"{what}: the latest event, against nginx", latest[0], latest[1], "ms", better="lower"),
    ]


def _memory(bench: Bench) -> list[Row]:
    rows = []
    for tls in (False, True):
        with ExitStack() as stack:
            pair = bench.pair(stack, "memory", bench.origin, tls=tls)
            mine, other = (uvloop.run(_idle_kib(each)) for each in pair)
        what = f"memory an idle {'TLS' if tls else 'plain'} connection, of {NUM_IDLE}"
        rows.append(compare(f"{what}, against the budget", mine, IDLE_KIB, "KiB", better="lower", target=1.0))
        rows.append(compare(f"{what}, against nginx", mine, max(LEAST, other), "KiB", better="lower"))
    return rows


async def _idle_kib(proxy: Proxy) -> float:
    """Of the second NUM_IDLE: what the first ones take may have been free. Each has had an answer, and is silent."""
    raw = request(proxy.port, body())
    lines: list[load.Asker] = []
    resident = []
    for _ in range(2):
        fresh = await load.askers(proxy, NUM_IDLE)
        lines += fresh
        for line in fresh:
            await line.ask(raw)
        resident.append(proxy.resident_bytes())
    for line in lines:
        line.transport.abort()
    return (resident[1] - resident[0]) / NUM_IDLE / 1024


def _gateway(bench: Bench) -> list[Row]:
    """One that is written in Python too, as its makers ship it."""
    rows = []
    with ExitStack() as stack:
        mine = stack.enter_context(
            stage.ours(bench.scratch / "ours-gateway", bench.origin, bench.authority, tls=False)
        )
        other = stack.enter_context(
            gateway.litellm(bench.options.cache, bench.scratch / "litellm", bench.origin, MODEL)
        )
        took = [
            load.blast(mine, bench.scratch, CONNECTIONS[-1], bench.options.seconds),
            load.blast(other, bench.scratch, CONNECTIONS[-1], bench.options.seconds, key=gateway.KEY),
        ]
        what = f"processor time a small request, {CONNECTIONS[-1]} connections, against {other.name}"
        rows.append(compare(what, took[0].cpu_us, took[1].cpu_us, "us", better="lower", target=20.0))
    return rows
