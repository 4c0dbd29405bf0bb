"""What a node has for workers, and what one of them takes of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from inference.engine.steps.slots import PAGES_SHARE
from inference.workers.board import LoadFailure
from inference.workers.loading import Room

if TYPE_CHECKING:
    from weights_cache.model.revision import Revision

WORKER_BYTES = 96 * 1024 * 1024
"""What a forked engine takes beside weights and slots: private pages of Python and torch, activations."""
WHOLE_CONTEXTS = 16
"""The memory of all slots together is worth so many whole contexts at most: rows are seldom that long, and short ones
share it (`slots.plan_room`)."""
KV_SHARE = 0.25
"""Of the memory budget, for one model's slots at most: two models and their slots fit a small node."""

PACKED_SHARE = 0.125
"""Of the memory budget: weights up to that have a second copy as products read it (`engine.linear.packing`)."""


@dataclass(frozen=True, slots=True)
class Means:
    """What this host gives to workers. `host_cache_bytes` bounds the weights of all that are resident."""

    memory_budget_bytes: int
    host_cache_bytes: int
    max_slots: int
    num_threads: int


def own_room(revision: Revision, means: Means, *, packs: bool = True) -> Room:
    """What an engine of ours takes; it plans its slots within `kv_bytes`. Raises LoadFailure.

    `packs`: on this device a second copy of the weights makes products faster.
    """
    facts = revision.facts
    num_slots = min(means.max_slots, revision.spec.max_batch or means.max_slots)
    one_context = facts.context_tokens * facts.kv_bytes_per_token
    slots_bytes = int(min(num_slots, WHOLE_CONTEXTS) * one_context / (1 - PAGES_SHARE))
    kv_bytes = min(slots_bytes, max(int(means.memory_budget_bytes * KV_SHARE), facts.kv_bytes_per_token))
    need_bytes = facts.weight_bytes + revision.spec.copied_bytes(facts) + kv_bytes + WORKER_BYTES
    packed_bytes = _packed_bytes(revision, means, need_bytes) if packs else 0
    room = Room(need_bytes + packed_bytes, kv_bytes, num_slots, means.num_threads, packed_bytes)
    return fitting(revision, means, room)


def _packed_bytes(revision: Revision, means: Means, need_bytes: int) -> int:
    """None if it would not fit, and none for `deterministic`: the last bits change when a copy is there."""
    copy_bytes, budget_bytes = revision.facts.weight_bytes, means.memory_budget_bytes
    is_small = copy_bytes <= PACKED_SHARE * budget_bytes and need_bytes + copy_bytes <= budget_bytes
    return copy_bytes if is_small and not revision.spec.deterministic else 0


def fitting(revision: Revision, means: Means, room: Room) -> Room:
    """The room, if the host has as much. Raises LoadFailure: it does not fit, even alone."""
    weight_bytes = revision.facts.weight_bytes
    if room.num_bytes <= means.memory_budget_bytes and weight_bytes <= means.host_cache_bytes:
        return room
    raise LoadFailure(
        "model_too_large",
        f"{revision.model} needs {room.num_bytes:,} bytes; this node has {means.memory_budget_bytes:,} for models "
        f"and {means.host_cache_bytes:,} for their weights",
        "give the node more memory, or push a smaller model or dtype",
    )


def lacking(revision: Revision, room: Room, cap_bytes: int | None) -> LoadFailure:
    """What is in use leaves no room: under the cap of all weights, or, without `cap_bytes`, in the models' memory."""
    what = f"{room.num_bytes:,} bytes"
    if cap_bytes is not None:
        what = f"{revision.facts.weight_bytes:,} of the {cap_bytes:,} bytes that this host has for weights"
    message = f"{revision.model} needs {what}, and the models in use or kept awake leave no room"
    return LoadFailure("memory_short", message, "wait until another model is idle, or add memory")
