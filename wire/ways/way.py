"""The way to one region: connections, measured distance, and the probe that measures; for whoever sends requests there.

A region that accepts connections and says nothing (a frozen process) is found by the probe: after SILENT_PROBES in a
row every request under way to it is cut, so that it is replayed or ends with a clear error. One that is out of reach is
found sooner, by this host's kernel (`silence.py`, `listen.py`, `watch.py`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final

from wire.dial import MAX_IDLE, DialError, Pool
from wire.secured.tls import hop_name
from wire.ways.distance import Distance
from wire.ways.hedge import Hedge, first_of
from wire.ways.listen import Listener

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

PROBE_PERIOD_S: Final = 1.0
PROBE_AGAIN_S: Final = 0.25  # after a failed one: two in a row are seen within the second
PROBE_S: Final = 1.0  # three times the longest round trip on Earth, and a busy gateway's slowest step
DOWN_PROBES: Final = 2  # failed in a row: the region gets no more requests while another can take them
SILENT_PROBES: Final = 5  # timed out in a row; fewer would cut the streams of a region short of processors
MAX_PREPARED: Final = 64  # connections made on a suspicion: a tenth of a second of a processor at either end
LOST_S: Final = 2.0  # the region's kernel acknowledges nothing for so long: the way to it is gone

log = logging.getLogger("nearfield.ways")


class Way:
    """What is known of the way to region `name`; `rtt_ms` is None until it was measured."""

    def __init__(
        self,
        name: str,
        host: str,
        port: int,
        tls: ssl.SSLContext | None = None,
        *,
        max_idle: int = MAX_IDLE,
    ) -> None:
        """With `tls` both sides show a certificate of the fleet's own authority. `max_idle` connections are kept."""
        self.name = name
        server_name = hop_name("region", name)
        self.pool = Pool(host, port, max_idle=max_idle, tls=tls, server_name=server_name, lost_s=LOST_S)
        self.rtt_ms: float | None = None
        self.down_since: float | None = None  # loop time; while the probe gets no answer
        self._distance = Distance()
        # its own: a request in front would be measured too
        self._probes = Pool(host, port, max_idle=1, tls=tls, server_name=server_name)
        self.hedge = Hedge()
        self._listener = Listener(self.pool, self._probes)
        self._num_failed = 0
        self._num_silent = 0

    @property
    def down(self) -> bool:
        """Whether the probe gets no answer."""
        return self.down_since is not None

    def on_answer(self, now: float, *, came_back: bool) -> None:
        """(For who knows more of the region) its probe was answered; `came_back`: it had been down."""

    def on_failure(self) -> None:
        """(For who knows more of the region) its probe failed, or the way was lost: it may be down now."""

    def is_lost(self, now: float) -> bool:
        """Whether nothing that is sent there arrives, by the word of kernels at `now` (loop time)."""
        return self._listener.lost(now, self.rtt_ms)

    @property
    def waits(self) -> bool:
        """Whether anything waited for a first byte when `is_lost` was last asked."""
        return self._listener.waits

    @property
    def is_asked(self) -> bool:
        """Whether more than one request waited when `is_lost` was last asked."""
        return self._listener.is_asked

    @property
    def num_doubted(self) -> int:
        """How many requests would have to go elsewhere if the way were lost, as it may be; 0 while it seems well."""
        return 0 if self.down else self._listener.num_doubted

    def prepare(self, num: int) -> None:
        """So many requests may come at once."""
        self.pool.prepare(min(num, MAX_PREPARED))

    def when_used(self, tell: Callable[[], None]) -> None:
        """Call `tell` when something begins to wait."""
        self.pool.on_use = self._probes.on_use = tell

    def lose(self, now: float) -> None:
        """Take the way for lost: no more requests, and those that were not acknowledged are for another region."""
        was_down, num_cut = self.down, self._listener.cut()
        self._fail(now, DOWN_PROBES)
        if not was_down:
            log.warning("region %s is out of reach: %d requests to it are cut", self.name, num_cut)

    def let_go(self) -> None:
        """While it is down: streams that nothing comes on any more end."""
        if num_cut := self._listener.cut_silent():
            log.warning("region %s is out of reach: %d streams from it are cut", self.name, num_cut)

    async def close(self) -> None:
        """Close every connection."""
        await self.pool.close()
        await self._probes.close()

    async def watch(self) -> None:
        """Probe until cancelled."""
        while True:
            await self.probe()
            await asyncio.sleep(PROBE_AGAIN_S if self._num_failed else PROBE_PERIOD_S)

    async def probe(self) -> None:
        """Measure one round trip, or note that there is none."""
        try:
            if not self._probes.num_idle:
                await self._round_trip_ms()  # a new connection costs a round trip of its own
            self._measured(await self._hedged_ms(), asyncio.get_running_loop().time())
        except DialError as error:
            self._failed(error, asyncio.get_running_loop().time())

    async def _hedged_ms(self) -> float:
        """One round trip; beside one that hangs, another over a connection of its own."""
        began = time.perf_counter()
        rtt_ms = await first_of(self._round_trip_ms, self._round_trip_ms, self.hedge)
        self.hedge.answered(time.perf_counter() - began)
        return rtt_ms

    async def _round_trip_ms(self) -> float:
        began = time.perf_counter()  # uvloop's own clock ticks in whole ms
        answer = await self._probes.request("GET", "/healthz", connect_s=PROBE_S, head_s=PROBE_S)
        took_s = time.perf_counter() - began - answer.connect_s
        await answer.read(max_bytes=1024, between_s=PROBE_S)
        return took_s * 1000

    def _measured(self, rtt_ms: float, now: float) -> None:
        was_down, self.down_since = self.down, None
        if was_down:
            self._distance.forget()  # it came back, perhaps by another way
            log.info("region %s answers again", self.name)
        self.rtt_ms = self._distance.saw(rtt_ms)
        self._num_failed = self._num_silent = 0
        self.on_answer(now, came_back=was_down)

    def _failed(self, error: DialError, now: float) -> None:
        self._num_silent = self._num_silent + 1 if error.timed_out else 0
        self._fail(now, self._num_failed + 1)
        if self._num_failed == DOWN_PROBES:
            log.warning("region %s does not answer its probe: %s", self.name, error)
        if self._num_silent >= SILENT_PROBES and self.pool.num_busy:
            log.warning("region %s is silent: %d requests to it are cut", self.name, self.pool.num_busy)
            self.pool.abort()

    def _fail(self, now: float, num_failed: int) -> None:
        self._num_failed = max(self._num_failed, num_failed)
        if self._num_failed >= DOWN_PROBES and self.down_since is None:
            self.down_since = now
        self.on_failure()
