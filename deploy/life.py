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
GC_THRESHOLD = 20_000
"""Allocations between young collections: a request makes hundreds, and a pause in it is felt by its first token."""


def die_with_parent(parent: int) -> None:
    """Ask the kernel for SIGTERM when the parent ends, however it ends; exits at once if it has already."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit(0)


def settle_collector() -> None:
    """Collect rarely from here on; what was imported lives as long as the process and need not be walked again."""
    gc.enable()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 50)


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
