"""Who leaves a host so that another finds a place: as the budgets say, and where they had said too much.

Budgets know nothing of a disk that somebody else fills, nor of weights that stay mapped while the last requests of
their worker run. Who lands finds out, and has somebody make way.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from inference.workers.residency.life import State, stops_for_room
from inference.workers.residency.room import lacking

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from inference.workers.loading import Room
    from inference.workers.residency.room import Means
    from inference.workers.worker import Worker
    from weights_cache.model.revision import Revision


def in_the_way(
    workers: Mapping[str, Worker], revision: Revision, room: Room, means: Means, awake: Collection[str]
) -> list[Worker]:
    """Whom to stop so that its process finds memory and its weights a place; nobody of `awake`.

    Raises LoadFailure: those that cannot go leave no room.
    """
    tenancies = [worker.tenancy() for worker in workers.values()]
    by_memory = stops_for_room(tenancies, room.num_bytes, means.memory_budget_bytes, awake)
    by_weights = stops_for_room(
        [one.sized(workers[one.revision_id].revision.facts.weight_bytes) for one in tenancies],
        revision.facts.weight_bytes,
        means.host_cache_bytes,
        awake,
    )
    if by_memory is None or by_weights is None:
        raise lacking(revision, room, None if by_memory is None else means.host_cache_bytes)
    return [workers[revision_id] for revision_id in {*by_memory, *by_weights}]


async def make_way(workers: Mapping[str, Worker], revision_id: str, awake: Collection[str]) -> bool:
    """Have one worker gone beside that of `revision_id`: one that is going already, else the one idle for longest.

    False if all are in use, or of `awake`. A request that runs ends first, within its worker's deadline.
    """
    others = [worker for worker in workers.values() if worker.revision.id != revision_id]
    if going := [worker for worker in others if worker.state is State.DRAINING]:
        await _first_gone(going)
        return True
    idle = [worker for worker in others if worker.tenancy().may_go and worker.revision.id not in awake]
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
