"""Looks after the ways to all regions, several times within the time in which a lost one is told.

Only while somebody waits for a first byte, or a way is down: else there is nothing to see until the next use. While
several requests wait at once an edge keeps a few connections to the nearest two regions: those that wait longest when a
way is lost go on at once, and not after a handshake of two more round trips. The rest find what was made meanwhile.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from wire.ways.silence import BEAT_S

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from wire.ways.way import Way

NUM_SPARE: Final = (
    8  # 20 KiB each at either end, and a handshake each in the 25 s after which a pool lets them go
)
SPARE_S: Final = 1.0  # between two looks at how many there are


async def watch(ways: Collection[Way], *, keeps_last: bool = True) -> None:
    """Until cancelled."""
    loop = asyncio.get_running_loop()
    spare_at = 0.0
    while True:
        look_at(ways, loop.time(), keeps_last=keeps_last)
        if keeps_last and loop.time() >= spare_at and any(each.is_asked for each in ways):
            spare_at = loop.time() + SPARE_S
            _spare(ways)
        if any(each.down or each.waits for each in ways):
            await asyncio.sleep(BEAT_S)
        else:
            await _used(ways)


async def _used(ways: Collection[Way]) -> None:
    """Return when a request begins on one of them, or a connection."""
    used = asyncio.Event()
    for each in ways:
        each.when_used(used.set)
    await used.wait()


def look_at(ways: Collection[Way], now: float, *, keeps_last: bool = True) -> None:
    """Give up the ways that are lost; with `keeps_last` not if none would be left: then it is our own that is.

    Patience costs nothing where nobody else can be asked: a kernel goes on where a short loss ends.
    """
    lost = [each for each in ways if each.is_lost(now)]
    if keeps_last and all(each.down or each in lost for each in ways):
        return
    for each in lost:
        each.lose(now)
    for each in ways:
        if each.down:
            each.let_go()
        elif keeps_last and each.num_doubted:
            _prepare(ways, each)


def _spare(ways: Collection[Way]) -> None:
    """A few connections to the nearest two regions; of one that has requests some are there."""
    for each in _nearest(each for each in ways if not each.down)[:2]:
        each.prepare(NUM_SPARE)


def _prepare(ways: Collection[Way], doubted: Way) -> None:
    """Connections to the nearest other region, in the time that it takes to be sure.

    A loss sends there what has waited for it, all at once; each would have a handshake to wait for, of two round trips
    and some ms of processor time, after it had waited for the loss to be certain. In vain it costs those handshakes.
    """
    for each in _nearest(each for each in ways if not (each.down or each.num_doubted))[:1]:
        each.prepare(doubted.num_doubted)


def _nearest(ways: Iterable[Way]) -> list[Way]:
    """Those whose distance is known, the nearest first."""
    return sorted((each for each in ways if each.rtt_ms is not None), key=lambda each: each.rtt_ms or 0.0)
