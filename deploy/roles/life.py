"""A role's life as a process: its parent, its collector, its signals and the one line that says it is ready."""

import asyncio
import ctypes
import gc
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable

import uvloop

Ready = Callable[[int], None]
PR_SET_PDEATHSIG = 1
GC_THRESHOLDS = 5_000, 80, 50
"""Objects more than there were before a young collection: of 20,000 it takes 4 to 10 ms where a crowd of connections
has made them, which is felt by every request that is under way. Old ones are looked at after as many as ever."""


def die_with_parent(parent: int) -> None:
    """Ask the kernel for SIGTERM when the parent ends, however it ends; exits at once if it has already."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit(0)


def settle_collector() -> None:
    """Collect rarely from here on; what was imported lives as long as the process and need not be walked again."""
    gc.enable()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def announce(role: str, name: str | None, port: int) -> None:
    """The ready line, on standard output; nobody reads the pipe from there on."""
    sys.stdout.write(json.dumps({"ready": True, "role": role, "name": name, "port": port}) + "\n")
    sys.stdout.flush()
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())


def live(run: Callable[[Ready, asyncio.Event], Awaitable[None]], ready: Ready) -> None:
    """Run a role until SIGTERM or SIGINT."""

    async def until_signalled() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await run(ready, stop)

    uvloop.run(until_signalled())
