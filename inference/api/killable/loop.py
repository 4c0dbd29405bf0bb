"""The inside of a killable child (`inference.api.killable.child`): frames in, answers out, under the kernel's limits.

What Python cannot stop is stopped by the kernel: processor time by an interval timer whose signal kills this
process, memory and files by limits. The parent starts another. Standard library only.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import resource
import signal
import sys
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

PREFIX_BYTES = 4
UP = bytes(PREFIX_BYTES)
"""What a child says first: an empty frame, once its imports are over."""
MAX_FRAME_BYTES = 16 * 1024 * 1024
"""A request is at most 1 MiB of body, escaped up to six times over, and a template."""
MAX_MEMORY_BYTES = 512 * 1024 * 1024
"""Address space: Python and its libraries take about 60 MiB of it; a 100 MB string still fits, ten do not."""
PR_SET_PDEATHSIG = 1


class Answerer(Protocol):
    """What a child does: one question, one answer."""

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """The answer, failures of the question in it; calls `arm` before work that may be endless."""


def serve(answerer: Answerer, source: BinaryIO, sink: BinaryIO, disarm: Callable[[], None]) -> None:
    """Answer frames until the end of `source`."""
    while len(prefix := source.read(PREFIX_BYTES)) == PREFIX_BYTES:
        body = source.read(min(int.from_bytes(prefix, "big"), MAX_FRAME_BYTES))
        answer = json.dumps(answerer.answer(json.loads(body))).encode()
        disarm()
        sink.write(len(answer).to_bytes(PREFIX_BYTES, "big") + answer)
        sink.flush()


def run(description: str, make: Callable[[Callable[[], None]], Answerer], warm_up: dict[str, Any]) -> None:
    """Be a child until standard input ends. `make` gets `arm`; `warm_up` is asked once before anything counts."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--cpu-ms", type=float, required=True, help="processor time of one answer")
    cpu_s = parser.parse_args().cpu_ms / 1000

    def arm() -> None:
        signal.setitimer(signal.ITIMER_PROF, cpu_s)  # SIGPROF's own action ends the process

    def disarm() -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the node's to handle; we end with our input
    _limit()
    answerer = make(arm)
    answerer.answer(warm_up)
    disarm()
    sys.stdout.buffer.write(UP)
    sys.stdout.buffer.flush()
    serve(answerer, sys.stdin.buffer, sys.stdout.buffer, disarm)


def _limit() -> None:
    """No files, no core, bounded memory; and die with the parent, even if it is killed."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
