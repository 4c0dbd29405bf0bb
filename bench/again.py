"""How long a user waits after `nearfield up` for the first answer of a model that was pushed before.

The command as a user types it, in a process of its own: three regions, each with its store, gateway and node, and an
edge. A client asks over HTTPS from the first moment on, every 20 ms, until it is answered.
"""

from __future__ import annotations

import datetime as dt
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from bench.caller import Caller, CallFailed
from bench.rows import Row, compare
from deploy import fleet
from deploy.fleet import FleetPlan
from deploy.trust import credentials, pki

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

TARGET_S = 15.0  # the issue's, on two cores
MODEL, QUESTION = "acme/again", "What is the capital of France?"
REGIONS = ("iad", "fra", "nrt")
ROOT = Path(__file__).resolve().parents[1]
TINYCHAT = ROOT / "examples" / "tinychat" / "model"
ASK_EACH_S = 0.02
DEADLINE_S = 120.0  # of a start, a push and a stop; each takes seconds


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--runs", type=int, default=3, help="starts of a platform that has a model (3)")


def measure(options: argparse.Namespace, say: Callable[[str], None]) -> tuple[list[Row], list[str]]:
    """Rows and notes."""
    with tempfile.TemporaryDirectory(prefix="nearfield-bench-") as scratch:
        state = Path(scratch) / "state"
        prepare(state)
        with up(state):
            until(lambda: nearfield(state, "status") == 0, "the platform is up")
            until(lambda: nearfield(state, "push", str(TINYCHAT), MODEL, "--yes") == 0, "the model is live")
        seconds = []
        for number in range(options.runs):
            started = time.perf_counter()
            with up(state):
                answer = _first_answer(state)
                seconds.append(time.perf_counter() - started)
            say(f"start {number + 1}: {seconds[-1]:.2f} s; {answer!r}")
    what = "`nearfield up` of three regions to the first answer of a model pushed before, median"
    row = compare(what, median(seconds), TARGET_S, "s", better="lower", target=1.0)
    slowest = compare("the same, slowest", max(seconds), TARGET_S, "s", better="lower", target=1.0)
    return [row, slowest], [f"{options.runs} starts; the weights are in no host's memory when it starts"]


def prepare(state: Path) -> None:
    """What `up` is to start, on ports of its own."""
    authority = pki.ensure(state / "tls", dt.datetime.now(dt.UTC))
    fleet.write(FleetPlan(state, REGIONS, usual_ports=(0, 0, 0)), authority)


@contextmanager
def up(state: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The command, until the block ends; then it stops everything by itself."""
    log = (state.parent / "up.log").open("a")
    process = subprocess.Popen(_words(state, "up"), stdout=log, stderr=log, cwd=ROOT)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE_S)
        log.close()


def nearfield(state: Path, *words: str) -> int:
    """The exit status of a command."""
    done = subprocess.run(
        _words(state, *words), cwd=ROOT, capture_output=True, timeout=DEADLINE_S, check=False
    )
    return done.returncode


def _words(state: Path, command: str, *words: str) -> list[str]:
    return [sys.executable, "-m", "deploy", command, *words, "--state", str(state)]


def _first_answer(state: Path) -> str:
    """Ask until it is answered; the text. Raises SystemExit: it never is."""
    known = credentials.load(state)
    url = urlsplit(known.base_url)
    body = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}]}
    until = time.monotonic() + DEADLINE_S
    while time.monotonic() < until:
        caller = Caller(
            (url.hostname or "", url.port or 443), {"authorization": f"Bearer {known.api_key}"}, known.ca
        )
        try:
            return caller.stream(f"{url.path}/chat/completions", body).text
        except (CallFailed, OSError):
            time.sleep(ASK_EACH_S)
        finally:
            caller.close()
    raise SystemExit(f"no answer in {DEADLINE_S:.0f} s")


def until(holds: Callable[[], bool], what: str) -> None:
    """Ask again and again. Raises SystemExit: it never does."""
    until = time.monotonic() + DEADLINE_S
    while not holds():
        if time.monotonic() > until:
            raise SystemExit(f"after {DEADLINE_S:.0f} s still not: {what}")
