"""How long a shell waits for the command line: `nearfield --help`, a Tab, `nearfield ls` against an edge that answers.

Beside an interpreter that does nothing, which is the floor, and `aws`, another Python program with many commands, where
this machine has one. Whole processes, one after the other, in random order; the edge is a thread of this process.
"""

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter

from bench.cli_edge import StatusEdge
from bench.rows import Row, compare

NUM_RUNS = 15
HELP_TARGET_MS = 200.0  # the issue's, on two cores
LS_TARGET_MS = 300.0
DEADLINE_S = 30.0
ROOT = Path(__file__).resolve().parents[1]
AWS = "aws --version"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--runs", type=int, default=NUM_RUNS, help=f"of each command ({NUM_RUNS})")


def measure(options: argparse.Namespace, say: Callable[[str], None]) -> tuple[list[Row], list[str]]:
    """Rows and notes."""
    with tempfile.TemporaryDirectory() as folder, StatusEdge(Path(folder)) as edge:
        commands = _commands(edge.state)
        say(f"{options.runs} runs of {len(commands)} commands")
        ms = {name: statistics.median(each) for name, each in _timed(commands, options.runs).items()}
    rows = [
        compare("nearfield --help", ms["help"], HELP_TARGET_MS, "ms", better="lower", target=1.0),
        compare("nearfield ls, drawn", ms["ls"], LS_TARGET_MS, "ms", better="lower", target=1.0),
        compare("nearfield ls --json", ms["ls-json"], LS_TARGET_MS, "ms", better="lower", target=1.0),
        compare("a Tab that completes a model's name", ms["tab"], LS_TARGET_MS, "ms", better="lower"),
        compare("nearfield --help, against python -c pass", ms["help"], ms["pass"], "ms", better="lower"),
    ]
    if AWS in ms:
        rows.append(compare(f"nearfield --help, against {AWS}", ms["help"], ms[AWS], "ms", better="lower"))
    notes = [
        f"medians of {options.runs} runs, whole processes, in random order; Python {sys.version.split()[0]}"
    ]
    return rows, notes if AWS in ms else [*notes, "no `aws` on this machine, so it is left out"]


def _commands(state: Path) -> Mapping[str, tuple[Sequence[str], Mapping[str, str]]]:
    """Name -> words and the variables that they take."""
    ours = (sys.executable, "-m", "deploy")
    env = {"PYTHONPATH": str(ROOT), "NEARFIELD_STATE": str(state)}
    tab = {
        "_NEARFIELD_COMPLETE": "complete_bash",
        "COMP_WORDS": "nearfield chat acme/",
        "COMP_CWORD": "2",
    }
    found: dict[str, tuple[Sequence[str], Mapping[str, str]]] = {
        "help": ((*ours, "--help"), env),
        "ls": ((*ours, "ls"), env),
        "ls-json": ((*ours, "ls", "--json"), env),
        "tab": (ours, env | tab),
        "pass": ((sys.executable, "-c", "pass"), {}),
    }
    program = shutil.which("aws")
    return found | ({AWS: ((program, "--version"), {})} if program else {})


def _timed(
    commands: Mapping[str, tuple[Sequence[str], Mapping[str, str]]], num_runs: int
) -> dict[str, list[float]]:
    """Milliseconds of each run; the first of each, which may compile, is not counted."""
    for words, variables in commands.values():
        _run(words, variables)
    order = [name for name in commands for _ in range(num_runs)]
    random.Random(0).shuffle(order)
    found: dict[str, list[float]] = {name: [] for name in commands}
    for name in order:
        found[name].append(_run(*commands[name]))
    return found


def _run(words: Sequence[str], variables: Mapping[str, str]) -> float:
    started = perf_counter()
    subprocess.run(words, env=os.environ | variables, capture_output=True, timeout=DEADLINE_S, check=True)
    return 1000 * (perf_counter() - started)
