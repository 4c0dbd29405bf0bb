"""Looks after the ways to all regions, several times within the time in which a lost one is told."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection

    from edge.reach.region import Reach

BEAT_S: Final = 0.05


async def watch(reaches: Collection[Reach]) -> None:
    """Until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        look_at(reaches, loop.time())
        await asyncio.sleep(BEAT_S)


def look_at(reaches: Collection[Reach], now: float) -> None:
    """Give up the ways that are lost, unless no region would be left: then it is this edge's own that is.

    Patience costs nothing where nobody else can be asked: a kernel goes on where a short loss ends.
    """
    lost = [each for each in reaches if each.is_lost(now)]
    if all(each.down or each in lost for each in reaches):
        return
    for each in lost:
        each.lose()
    for each in reaches:
        if each.down:
            each.let_go()
