"""Threads for calls that wait for the region's store.

A store that hangs holds whoever asks it for half a minute. In the event loop's own few threads (cores + 4) a handful of
such starts would hold up everything else that goes there: long prompts, weights that are let go of, and starts of
models whose weights are here. So whoever may wait for the store waits in a thread of these.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

MOST = 256
"""Two for each start under way, of which memory ends before; they are made as they are needed, and kept."""

P = ParamSpec("P")
T = TypeVar("T")


class StoreThreads:
    """Made once a node; `close` takes no more calls and waits for none."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(MOST, thread_name_prefix="store")

    async def call(self, work: Callable[P, T], *args: P.args, **more: P.kwargs) -> T:
        """What `work` gives or raises. A caller that is cancelled leaves it running."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, partial(work, *args, **more))

    def close(self) -> None:
        """No more; a call that runs ends by its own deadlines."""
        self._pool.shutdown(wait=False, cancel_futures=True)
