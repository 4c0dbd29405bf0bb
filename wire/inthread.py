"""Waiting for work in a thread that uses what its caller may take away."""

import asyncio
import threading
from typing import TypeVar

T = TypeVar("T")


async def ended(work: "asyncio.Future[T]", stop: threading.Event) -> T:
    """What `work`, under way in a thread, comes to; on cancellation `stop` is set and the thread ends first.

    Otherwise the caller could close a descriptor, another file could get its number, and the thread would use that.
    """
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([work])
        if not work.cancelled():
            work.exception()  # seen: the cancellation is what the caller hears of
        raise
