"""The region's row: what is deployed and what nodes report; signed, numbered, said each second or sooner."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from regions.gateway.journal import Journal
from regions.gateway.row import RowMaker
from regions.map.region import ROW_PERIOD_S
from regions.rows import RowRefused, signing_key

if TYPE_CHECKING:
    from regions.deployments import Deployments
    from regions.gateway.wake import Wakes
    from regions.map.region import RegionRow

SETTLE_S: Final = 0.01  # changes come in bursts: one row tells them all
GAP_S: Final = 0.1  # between rows that only count up; a change of policy does not wait for it

log = logging.getLogger("nearfield.regions")


class Publisher:
    """The newest signed row of this region and its number.

    `epoch` is the start of this process in ms; with `seq` it orders all rows that the region ever said.
    """

    def __init__(self, deployments: Deployments, key: bytes, epoch: int, wakes: Wakes) -> None:
        self.seq = 0
        self._deployments = deployments
        self._journal = Journal(signing_key(key))
        self._maker = RowMaker(deployments, wakes, epoch)
        self._policy_line: bytes | None = None
        self._next: asyncio.Future[None] | None = None

    @property
    def row(self) -> RegionRow | None:
        """The newest that was said."""
        return self._journal.row

    def lines(self, seen: int) -> tuple[bytes, ...]:
        """The signed lines that whoever has row `seen` lacks; 0 for nobody's."""
        return self._journal.after(seen)

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
        row = self._maker.row(self.seq + 1)
        try:
            self._journal.say(row)
        except RowRefused:
            log.exception("the region's row cannot be said; edges keep the last one")
            return
        self.seq = row.seq
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
        earliest, row = asyncio.get_running_loop().time() + GAP_S, self.row
        while row == self.row or asyncio.get_running_loop().time() < earliest:
            try:
                async with asyncio.timeout_at(None if row == self.row else earliest):
                    version = await self._deployments.changed(version)
            except TimeoutError:
                return
            await asyncio.sleep(SETTLE_S)
            if self._policy_moved():
                return
            row = self._maker.row(self.seq)

    def _policy_moved(self) -> bool:
        return self._deployments.policy_line != self._policy_line
