"""Keeps an eye on the region's nodes: their reports go into the deployments, silent ones are forgotten."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from regions.nodes.client import NodeError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from regions.deployments import Deployments
    from regions.nodes.client import Node

POLL_S: Final = 0.5  # half a row's period: a row's figures are at most this much older than the row
CUT_AFTER: Final = (
    5  # then what it was sent is given up: it has said nothing for 15 s, and the edges can ask another
)
LOST_AFTER: Final = 2  # silent polls in a row; a node may miss one while all its cores load a model

log = logging.getLogger("nearfield.regions")


class NodeWatch:
    """Polls every node's `GET /status`."""

    def __init__(self, deployments: Deployments, nodes: Mapping[str, Node]) -> None:
        self._deployments = deployments
        self._nodes = nodes
        self._num_silent = dict.fromkeys(nodes, 0)
        self.on_silent: Callable[[str], None] = lambda _address: None
        """Called for a node that has been silent for CUT_AFTER polls."""

    async def run(self) -> None:
        """Polls until cancelled."""
        async with asyncio.TaskGroup() as group:
            for address in self._nodes:
                group.create_task(self._follow(address))

    async def refresh(self, address: str | None = None) -> None:
        """Asks one node, or all, at once: its answer is in the deployments when this returns."""
        addresses = self._nodes if address is None else (address,)
        await asyncio.gather(*(self._ask(each) for each in addresses))

    def lost(self, address: str) -> None:
        """A request could not reach the node: nobody is sent there until it reports again."""
        self._num_silent[address] = LOST_AFTER
        self._deployments.lost(address)

    async def _follow(self, address: str) -> None:
        while True:
            await self._ask(address)
            await asyncio.sleep(POLL_S)

    async def _ask(self, address: str) -> None:
        try:
            view = await self._nodes[address].status()
        except NodeError as error:
            self._silent(address, error)
            return
        self._num_silent[address] = 0
        self._deployments.heard(view)

    def _silent(self, address: str, error: NodeError) -> None:
        self._num_silent[address] += 1
        if self._num_silent[address] == LOST_AFTER:
            log.warning("node %s is silent: %s", address, error)
        if self._num_silent[address] >= LOST_AFTER:
            self._deployments.lost(address)
        if self._num_silent[address] == CUT_AFTER:
            self.on_silent(address)
