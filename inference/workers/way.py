"""Whose weights leave a host so that those of another find a place, where the budgets had said that there is one.

Budgets know nothing of a disk that somebody else fills, nor of weights that stay mapped while the last requests of
their worker run. Who lands finds out, and asks here.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from inference.workers.life import State

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inference.workers.worker import Worker


async def make_way(workers: Mapping[str, Worker], revision_id: str) -> bool:
    """Have one worker gone beside that of `revision_id`: one that is going already, else the one idle for longest.

    False if all are in use. A request that runs is never dropped: it ends, or its worker's deadline comes.
    """
    others = [worker for worker in workers.values() if worker.revision.id != revision_id]
    if going := [worker for worker in others if worker.state is State.DRAINING]:
        await _first_gone(going)
        return True
    idle = [worker for worker in others if worker.state is State.RESIDENT and not worker.num_requests]
    if idle:
        await max(idle, key=lambda worker: worker.idle_s).drain()
    return bool(idle)


async def _first_gone(going: list[Worker]) -> None:
    ends = [asyncio.create_task(worker.gone.wait()) for worker in going]
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for end in ends:
            end.cancel()
