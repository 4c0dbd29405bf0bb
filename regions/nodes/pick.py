"""Which node answers, and which one wakes: pure, from the nodes' last reports and what was sent since."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING

from regions.nodes.answers import RESIDENT

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from regions.nodes.client import NodeView


@lru_cache(maxsize=1024)  # as many as the nodes of a region
def replica_id(address: str) -> str:
    """What clients know a node by: it tells one from another, and nothing else."""
    return blake2b(address.encode(), digest_size=4).hexdigest()


def answering(
    revision: str,
    nodes: Mapping[str, NodeView],
    inflight: Mapping[tuple[str, str], int],
    preferred: str | None = None,
) -> str | None:
    """The node with the shortest queue for its slots, of those that hold the revision; None if none does.

    The one with the replica id `preferred` is taken while it has a slot to spare.

    Args:
        revision: its id.
        nodes: last report of each node that answers, by address.
        inflight: requests of ours under way, by (address, revision): newer than the reports.
        preferred: the replica id that the client would like.
    """
    best: tuple[float, str] | None = None
    for address, view in nodes.items():
        for worker in view.workers:
            if worker.revision == revision and worker.state == RESIDENT:
                load = (inflight.get((address, revision), 0) / (worker.slots or 1), address)
                if preferred is not None and load[0] < 1 and replica_id(address) == preferred:
                    return address
                best = load if best is None else min(best, load)
                break
    return None if best is None else best[1]


def waking(revision: str, nodes: Mapping[str, NodeView], tried: Collection[str]) -> str | None:
    """The node to load it: bytes in memory first, then most memory free; None if all were tried."""
    left = {address: view for address, view in nodes.items() if address not in tried}
    return min(left, key=lambda address: _wake_order(revision, left[address]), default=None)


def _wake_order(revision: str, view: NodeView) -> tuple[bool, bool, int, str]:
    loading = any(worker.revision == revision for worker in view.workers)
    return not loading, revision not in view.cached, view.used_bytes - view.budget_bytes, view.address
