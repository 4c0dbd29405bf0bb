"""One region as this edge reaches it: connections, measured distance, health; and the probe that measures.

A region that accepts connections and says nothing (a frozen process, a black hole) is found by the probe: after
SILENT_PROBES in a row every request under way to it is cut, so that it is replayed or ends with a clear error.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from regions.health import HEALTHY, Breaker, Outcome, RegionHealth, after
from wire.dial import DialError, Pool

PROBE_PERIOD_S: Final = 1.0
PROBE_S: Final = 1.0  # three times the longest round trip on Earth, and a busy gateway's slowest step
SILENT_PROBES: Final = (
    5  # fewer would cut the streams of a region that is only short of processors for a while
)
RTT_WEIGHT: Final = 0.2  # of the newest round trip in the moving average: about the last five count
MAX_IDLE: Final = 64  # connections kept to a region between requests

log = logging.getLogger("nearfield.edge")


class Reach:
    """What this edge knows of the way to region `name`; `rtt_ms` is None until it was measured."""

    def __init__(self, name: str, host: str, port: int) -> None:
        self.name = name
        self.pool = Pool(host, port, max_idle=MAX_IDLE)
        self.rtt_ms: float | None = None
        self.health: RegionHealth = HEALTHY
        self._probes = Pool(host, port, max_idle=1)  # its own: a request in front would be measured too
        self._num_silent = 0
        self._down = False

    def saw(self, outcome: Outcome) -> None:
        """Note what became of a request to the region."""
        self.health = after(self.health, outcome, asyncio.get_running_loop().time())

    async def close(self) -> None:
        """Close every connection."""
        await self.pool.close()
        await self._probes.close()

    async def watch(self) -> None:
        """Probe each second until cancelled."""
        while True:
            await self.probe()
            await asyncio.sleep(PROBE_PERIOD_S)

    async def probe(self) -> None:
        """Measure one round trip; a failed one counts as a failure of the region."""
        try:
            if not self._probes.num_idle:
                await self._round_trip_ms()  # a new connection costs a round trip of its own
            self._measured(await self._round_trip_ms())
        except DialError as error:
            self._failed(error)

    async def _round_trip_ms(self) -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        answer = await self._probes.request("GET", "/healthz", connect_s=PROBE_S, head_s=PROBE_S)
        took_s = loop.time() - began
        await answer.read(max_bytes=1024, between_s=PROBE_S)
        return took_s * 1000

    def _measured(self, rtt_ms: float) -> None:
        known = self.rtt_ms
        self.rtt_ms = rtt_ms if known is None else known + RTT_WEIGHT * (rtt_ms - known)
        self._num_silent = 0
        if self._down:
            log.info("region %s answers again", self.name)
            self._down = False
            self._try_again()

    def _try_again(self) -> None:
        """What the probes ejected they may bring back; what requests ejected is for requests to try."""
        if self.health.breaker is not Breaker.CLOSED:
            self.saw(Outcome.SENT)
            self.saw(Outcome.SUCCEEDED)

    def _failed(self, error: DialError) -> None:
        self.saw(Outcome.FAILED)
        if not self._down:
            log.warning("region %s does not answer its probe: %s", self.name, error)
        self._down = True
        self._num_silent = self._num_silent + 1 if error.timed_out else 0
        if self._num_silent == SILENT_PROBES:
            log.warning("region %s is silent: %d requests to it are cut", self.name, self.pool.num_busy)
            self.pool.abort()
