"""What counting usage costs: an engine's meter beside its steps, and a node's journal beside its requests."""

import argparse
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median

from bench.rows import Row, compare
from inference.usage.meter import Book, Meter, Part

STREAMS = 16
TOKENS = 192
AT_MOST = 100.0
"""A step is to be this many times what its metering takes: 1 %."""
NUM_LINES = 2_000
NUM_SYNCS = 20


def add_options(parser: argparse.ArgumentParser) -> None:
    """How many rounds."""
    parser.add_argument("--rounds", type=int, default=3)


def measure(options: argparse.Namespace, say: Callable[[str], None]) -> tuple[list[Row], Sequence[str]]:
    """Rows, and what they leave out."""
    with tempfile.TemporaryDirectory(prefix="nearfield-usage-") as name:
        folder = Path(name)
        steps = [_steps(folder, number) for number in range(options.rounds)]
        step_us = median(step for step, _ in steps)
        meter_us = median(meter for _, meter in steps)
        say(f"a step of {STREAMS} streams {step_us:.0f} us, of it the meter {meter_us:.1f} us")
        line_us, sync_us = _journal(folder / "journal")
    what = f"a step of {STREAMS} streams of a tiny model, and metering in it, on its own log"
    rows = [compare(what, meter_us, step_us, "us", better="lower", target=AT_MOST)]
    notes = [
        f"a request's three lines in the node's journal: {3 * line_us:.0f} us",
        f"a line with a sync of its own: {sync_us:.0f} us on this disk, which is why syncs are shared, every 50 ms",
    ]
    return rows, notes


class Timed(Meter):
    """A meter that knows how long its steps took, and how long it did itself."""

    def __init__(self, book: Book) -> None:
        super().__init__(book)
        self.steps: list[int] = []
        self.took: list[int] = []

    def step(self, parts: Iterable[Part], took_ns: int) -> None:
        """See `Meter`."""
        began = time.perf_counter_ns()
        super().step(parts, took_ns)
        self.took.append(time.perf_counter_ns() - began)
        self.steps.append(took_ns)


def _steps(folder: Path, number: int) -> tuple[float, float]:
    """Microseconds of a step of STREAMS rows, and of its meter's part."""
    from bench.engines.child import _model
    from inference.engine.generation import GenerateLoop
    from inference.engine.model import step_model
    from inference.engine.orders.asked import Bounds
    from inference.engine.steps.scheduler import Scheduler
    from inference.engine.steps.slots import SlotPlan
    from inference.link import EngineLink, frame_bytes
    from inference.usage.own_log import OwnLog

    model = _model({"model": "tiny"}, "sdpa").eval()
    room, meter = SlotPlan(STREAMS, 512, 0, 0), Timed(OwnLog(folder, f"r{number}"))
    ours, theirs = socket.socketpair()
    with theirs:
        for order in range(STREAMS):
            prompt = {"op": "add", "id": str(order), "tokens": [1 + order] * 16, "max_tokens": TOKENS}
            theirs.sendall(frame_bytes(prompt))
        theirs.sendall(frame_bytes({"op": "stop"}))
        rows = step_model(model, room)
        scheduler = Scheduler(room.num_slots, frozenset())
        bounds = Bounds(model.config.vocab_size, room.max_len)
        loop = GenerateLoop(EngineLink(ours), scheduler, rows, None, bounds, room, meter=meter)
        reader = threading.Thread(target=_drain, args=(theirs,))
        reader.start()
        loop.serve({"op": "ready"})
        ours.close()
        reader.join()
    return median(meter.steps) / 1e3, median(meter.took) / 1e3


def _drain(end: socket.socket) -> None:
    while end.recv(1 << 16):
        pass


def _journal(folder: Path) -> tuple[float, float]:
    """Microseconds of a line, and of a line with a sync of its own."""
    import asyncio

    from inference.usage.journal import Journal

    folder.mkdir()
    journal = Journal(folder)
    facts = {"request": f"req_{'0' * 32}", "tenant": "acme", "model": "acme/model", "revision": "0" * 64}
    began = time.perf_counter_ns()
    for number in range(NUM_LINES):
        journal.append({"line": "open", "attempt": f"a-1:{number}", **facts})
    line_us = (time.perf_counter_ns() - began) / NUM_LINES / 1e3

    async def synced() -> list[int]:
        took = []
        for number in range(NUM_SYNCS):
            began = time.perf_counter_ns()
            journal.append({"line": "open", "attempt": f"b-1:{number}", **facts})
            await journal.sync()
            took.append(time.perf_counter_ns() - began)
        return took

    sync_us = median(asyncio.run(synced())) / 1e3
    journal.close()
    return line_us, sync_us
