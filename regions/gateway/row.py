"""The region's row as it stands: what is deployed, and what nodes report of it.

Most models of a row are asleep, and what is said of one that nothing touched is the very value that was said before: a
row of ten thousand costs little more than looking at each.
"""

from __future__ import annotations

import time
from types import MappingProxyType
from typing import TYPE_CHECKING

from regions.gateway.estimate import measured
from regions.map.region import MAX_LEFT_OUT, LeftOutFile, ModelFault, ModelRow, RegionRow, Tier
from regions.row_fields import MAX_TEXT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from regions.deployments import Deployment, Deployments
    from regions.gateway.wake import Wakes
    from regions.nodes.answers import WorkerView

    Holders = Mapping[str, Sequence[WorkerView]]


class RowMaker:
    """Makes the rows of one region; remembers what each sleeping model's was made of."""

    def __init__(self, deployments: Deployments, wakes: Wakes, epoch: int) -> None:
        self._deployments, self._wakes, self._epoch = deployments, wakes, epoch
        self._made: dict[str, tuple[tuple[object, ...], ModelRow]] = {}

    def row(self, seq: int) -> RegionRow:
        """The row as it stands, with the number `seq`."""
        region = self._deployments
        holders = _holders(region)
        cached = frozenset[str]().union(*(node.cached for node in region.nodes.values()))
        made = {name: self._model(each, holders, cached) for name, each in region.models.items()}
        self._made = made
        found, behind = measured(region), region.lag.behind(time.monotonic())
        return RegionRow(
            id=region.region,
            epoch=self._epoch,
            seq=seq,
            models=MappingProxyType({name: row for name, (_, row) in made.items()}),
            store_bytes_per_s=found.store_bytes_per_s,
            host_bytes_per_s=found.host_bytes_per_s,
            origin_bytes_per_s=found.origin_bytes_per_s,
            attach_s=found.attach_s,
            behind_bytes=behind.num_bytes,
            behind_s=round(behind.seconds, 1),
            eta_error=round(self._wakes.figures.accuracy.error or 0.0, 3),
            draining=region.draining,
        )

    def _model(
        self, deployment: Deployment, holders: Holders, cached: frozenset[str]
    ) -> tuple[tuple[object, ...], ModelRow]:
        """A model's row and what it was made of; the same value as before if that is the same."""
        revision = deployment.live.id if deployment.live else ""
        workers = tuple(holders.get(revision, ()))
        tier = _tier(deployment, workers, cached)
        key = (_told(deployment), tier, workers)
        wake = self._wakes.running.get(revision)
        known = self._made.get(deployment.model)
        if known is not None and wake is None and known[0] == key:
            return known
        row = model_row(deployment, workers, tier, self._wakes)
        if known is not None and known[1] == row:
            row = known[1]
        return (() if wake is not None else key), row


def region_row(deployments: Deployments, wakes: Wakes, epoch: int, seq: int) -> RegionRow:
    """One row, made from nothing."""
    return RowMaker(deployments, wakes, epoch).row(seq)


def model_row(deployment: Deployment, workers: Sequence[WorkerView], tier: Tier, wakes: Wakes) -> ModelRow:
    """One model of it. Requests that are held count as waiting: they are ahead of the next one."""
    live, facts = deployment.live, deployment.facts
    revision = live.id if live else ""
    wake = wakes.running.get(revision)
    return ModelRow(
        revision=revision,
        state=deployment.state,
        tier=tier,
        kind=facts.kind if facts else "generate",
        bytes=facts.weight_bytes if facts else 0,
        max_len=facts.context_tokens if facts else 0,
        running=sum(worker.running for worker in workers),
        waiting=sum(worker.waiting for worker in workers) + (wake.num_waiting if wake else 0),
        slots=sum(worker.slots for worker in workers),
        prefill_ms_per_token=_mean([worker.prefill_ms_per_token for worker in workers]),
        step_ms=_mean([worker.step_ms for worker in workers]),
        error=_short(deployment.error),
        left_out=tuple(
            LeftOutFile(each.path[:MAX_TEXT], each.reason[:MAX_TEXT])
            for each in deployment.left_out[:MAX_LEFT_OUT]
        ),
        progress=wake.seen() if wake else deployment.progress,
        pushed_s=deployment.pushed_s,
        deterministic=deployment.is_deterministic,
        residency=deployment.residency,
        waits_for=deployment.waits_for,
    )


def _told(deployment: Deployment) -> tuple[object, ...]:
    """All of a deployment that its row shows. Revisions are values: one that is the same is not looked into."""
    return (
        deployment.live,
        deployment.candidate,
        deployment.state,
        deployment.in_region,
        deployment.error,
        deployment.progress,
        deployment.refused_left_out,
        deployment.pushed_s,
        deployment.waits_for,
    )


def _tier(deployment: Deployment, workers: Sequence[WorkerView], cached: frozenset[str]) -> Tier:
    """As `Deployments.tier`, of what was gathered once for all models."""
    if deployment.live is None:
        return Tier.ORIGIN
    if workers:
        return Tier.RESIDENT
    if deployment.live.id in cached:
        return Tier.HOST
    return Tier.REGION if deployment.in_region else Tier.ORIGIN


def _holders(deployments: Deployments) -> Holders:
    """The workers that can answer, by revision."""
    holders: dict[str, list[WorkerView]] = {}
    for node in deployments.nodes.values():
        for worker in node.workers:
            if worker.holds(worker.revision):
                holders.setdefault(worker.revision, []).append(worker)
    return holders


def _mean(figures: Sequence[float]) -> float:
    measured = [each for each in figures if each > 0]
    return sum(measured) / len(measured) if measured else 0.0


def _short(fault: ModelFault | None) -> ModelFault | None:
    if fault is None:
        return None
    return ModelFault(fault.code[:MAX_TEXT], fault.message[:MAX_TEXT], fault.next[:MAX_TEXT])
