"""The region's row: what is deployed and what nodes report; signed, numbered, said each second or sooner."""

from __future__ import annotations

import asyncio
import logging
import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from regions.gateway.estimate import measured
from regions.map import MAX_LEFT_OUT, ROW_PERIOD_S, LeftOutFile, ModelFault, ModelRow, RegionRow
from regions.row_fields import MAX_TEXT
from regions.rows import RowRefused, encode, signing_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from regions.deployments import Deployment, Deployments
    from regions.gateway.wake import Wakes
    from regions.nodes.client import NodeView, WorkerView

SETTLE_S: Final = 0.01  # changes come in bursts: one row tells them all
GAP_S: Final = 0.1  # between rows that only count up; a change of policy does not wait for it

log = logging.getLogger("nearfield.regions")


class Publisher:
    """The newest signed line of this region and its number.

    `epoch` is the start of this process in ms; with `seq` it orders all rows that the region ever said.
    """

    def __init__(self, deployments: Deployments, key: bytes, epoch: int, wakes: Wakes) -> None:
        self.line = b""
        self.seq = 0
        self._deployments = deployments
        self._key = signing_key(key)
        self._epoch = epoch
        self._wakes = wakes
        self._last: RegionRow | None = None
        self._policy_line: bytes | None = None
        self._next: asyncio.Future[None] | None = None

    async def run(self) -> None:
        """Says rows until cancelled: at once on a change, and each ROW_PERIOD_S."""
        while True:
            version = self._deployments.version
            self.publish()
            try:
                async with asyncio.timeout(ROW_PERIOD_S):
                    await self._until_new(version)
            except TimeoutError:
                continue

    def publish(self) -> None:
        """Makes, signs and numbers a row now and wakes who waits; one too long leaves the last in force."""
        row = region_row(self._deployments, self._wakes, self._epoch, self.seq + 1)
        try:
            line = encode(row, self._key)
        except RowRefused:
            log.exception("the region's row cannot be said; edges keep the last one")
            return
        self.line, self.seq, self._last = line, row.seq, row
        self._policy_line = self._deployments.policy_line
        if self._next is not None and not self._next.done():
            self._next.set_result(None)

    async def changed(self, seen: int, timeout_s: float) -> None:
        """Waits until `seq` is above `seen`, at most `timeout_s`."""
        if self.seq > seen:
            return
        if self._next is None or self._next.done():
            self._next = asyncio.get_running_loop().create_future()
        await asyncio.wait([self._next], timeout=timeout_s)

    async def _until_new(self, version: int) -> None:
        """Returns when what a row shows has changed; figures that only tick over wait for the period."""
        earliest, row = asyncio.get_running_loop().time() + GAP_S, self._last
        while row == self._last or asyncio.get_running_loop().time() < earliest:
            try:
                async with asyncio.timeout_at(None if row == self._last else earliest):
                    version = await self._deployments.changed(version)
            except TimeoutError:
                return
            await asyncio.sleep(SETTLE_S)
            if self._policy_moved():
                return
            row = region_row(self._deployments, self._wakes, self._epoch, self.seq)

    def _policy_moved(self) -> bool:
        return self._deployments.policy_line != self._policy_line


def region_row(deployments: Deployments, wakes: Wakes, epoch: int, seq: int) -> RegionRow:
    """The row of a region as it stands."""
    found = measured(deployments)
    behind = deployments.lag.behind(time.monotonic())
    models = {name: model_row(deployments, each, wakes) for name, each in deployments.models.items()}
    return RegionRow(
        id=deployments.region,
        epoch=epoch,
        seq=seq,
        models=MappingProxyType(models),
        store_bytes_per_s=found.store_bytes_per_s,
        host_bytes_per_s=found.host_bytes_per_s,
        origin_bytes_per_s=found.origin_bytes_per_s,
        attach_s=found.attach_s,
        behind_bytes=behind.num_bytes,
        behind_s=round(behind.seconds, 1),
        eta_error=round(wakes.figures.accuracy.error or 0.0, 3),
        draining=deployments.draining,
    )


def model_row(deployments: Deployments, deployment: Deployment, wakes: Wakes) -> ModelRow:
    """One model of it. Requests that are held count as waiting: they are ahead of the next one."""
    live, facts = deployment.live, deployment.facts
    revision = live.id if live else ""
    workers = _holders(deployments.nodes.values(), revision)
    wake = wakes.running.get(revision)
    return ModelRow(
        revision=revision,
        state=deployment.state,
        tier=deployments.tier(deployment),
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


def _holders(nodes: Iterable[NodeView], revision: str) -> list[WorkerView]:
    return [worker for node in nodes for worker in node.workers if worker.holds(revision)]


def _mean(figures: Sequence[float]) -> float:
    measured = [each for each in figures if each > 0]
    return sum(measured) / len(measured) if measured else 0.0


def _short(fault: ModelFault | None) -> ModelFault | None:
    if fault is None:
        return None
    return ModelFault(fault.code[:MAX_TEXT], fault.message[:MAX_TEXT], fault.next[:MAX_TEXT])
