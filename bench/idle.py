"""What a running platform costs when nobody asks anything, and what its start costs: processor time and wake-ups.

`nearfield up` of three regions with a model pushed, all its processes found by their parents and by the folder in their
command lines (a host's zygote is nobody's child). Figures are the kernel's own, of every thread.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench.again import MODEL, REGIONS, TINYCHAT, nearfield, prepare, until, up
from bench.rows import Row, compare
from bench.starts.pss import command_of, descendants

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable

SETTLE_S = 70.0  # a store looks through its blobs once, a minute after its start
SECONDS = 60.0
CORE_MS = 1000.0


class Spent(NamedTuple):
    """Of one process since its start: processor time of all its threads, and how often one of them went to sleep."""

    ms: float
    num_sleeps: int


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"to look on for ({SECONDS:.0f})")
    parser.add_argument("--settle", type=float, default=SETTLE_S, help=f"to wait before ({SETTLE_S:.0f})")


def measure(options: argparse.Namespace, say: Callable[[str], None]) -> tuple[list[Row], list[str]]:
    """Rows and notes."""
    with tempfile.TemporaryDirectory(prefix="nearfield-bench-") as scratch:
        state = Path(scratch) / "state"
        prepare(state)
        with up(state) as process:
            until(lambda: nearfield(state, "status") == 0, "the platform is up")
            start = _by_kind(_spent(process.pid, state))
            until(lambda: nearfield(state, "push", str(TINYCHAT), MODEL, "--yes") == 0, "the model is live")
            say(f"all is live; {options.settle:.0f} s until it is at rest, then {options.seconds:.0f} s")
            time.sleep(options.settle)
            before, began = _spent(process.pid, state), time.perf_counter()
            time.sleep(options.seconds)
            after, seconds = _spent(process.pid, state), time.perf_counter() - began
            calm = _by_kind(difference(before, after))  # while their command lines can be read
    return _rows(start, calm, seconds), [
        f"{len(REGIONS)} regions, {len(after)} processes, one model resident; wake-ups are voluntary switches",
        "a start is counted until `nearfield status` answers: its command is not in it, the zygote's imports may go on",
    ]


def _rows(start: dict[str, Spent], calm: dict[str, Spent], seconds: float) -> list[Row]:
    whole = _sum(calm.values())
    rows = [
        compare(
            "at rest, all processes, a second", whole.ms / seconds, CORE_MS, "ms of a core", better="lower"
        ),
        *(
            compare(f"at rest, {kind}: of all", each.ms / seconds, whole.ms / seconds, "ms", better="lower")
            for kind, each in sorted(calm.items())
            if each.ms
        ),
        *(
            compare(
                f"wake-ups, {kind}: of all",
                each.num_sleeps / seconds,
                whole.num_sleeps / seconds,
                "a second",
                better="lower",
            )
            for kind, each in sorted(calm.items())
            if each.num_sleeps
        ),
    ]
    total = _sum(start.values()).ms / 1000
    parts = ((kind, each.ms / 1000) for kind, each in sorted(start.items()))
    return rows + [compare(f"start, {kind}: of all", s, total, "s", better="lower") for kind, s in parts if s]


def spent(pid: int) -> Spent:
    """Of one process; nothing if it has ended."""
    ns = num_sleeps = 0
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            ns += int((task / "schedstat").read_text().split()[0])
            status = (task / "status").read_text()
            num_sleeps += int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    except OSError:
        return Spent(0.0, 0)
    return Spent(ns / 1e6, num_sleeps)


def difference(before: dict[int, Spent], after: dict[int, Spent]) -> dict[int, Spent]:
    """What those that lived all the time have spent since."""
    return {
        pid: Spent(now.ms - before[pid].ms, now.num_sleeps - before[pid].num_sleeps)
        for pid, now in after.items()
        if pid in before
    }


def kind_of(words: list[str]) -> str:
    """What a process is, by its command line: a role, or the module that it runs."""
    if "deploy.roles.process" in words:
        return words[words.index("deploy.roles.process") + 1]
    return words[words.index("-m") + 1] if "-m" in words else "other"


def _spent(root: int, state: Path) -> dict[int, Spent]:
    ours = {int(each.name) for each in Path("/proc").iterdir() if each.name.isdecimal()}
    named = {pid for pid in ours if any(str(state) in word for word in command_of(pid))}
    found = {pid for each in (root, *named) for pid in descendants(each)}
    return {pid: spent(pid) for pid in found}


def _by_kind(found: dict[int, Spent]) -> dict[str, Spent]:
    kinds: dict[str, list[Spent]] = {}
    for pid, each in found.items():
        kinds.setdefault(kind_of(command_of(pid)), []).append(each)
    return {kind: _sum(each) for kind, each in kinds.items()}


def _sum(found: Iterable[Spent]) -> Spent:
    every = list(found)
    return Spent(sum(each.ms for each in every), sum(each.num_sleeps for each in every))
