"""The anycast gate of one POP: checks its edge and its regions, and has BGP say whether clients should come here."""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edge.anycast.bird import Bird
from edge.anycast.exabgp import ExaBgp
from edge.anycast.figures import add_gate_figures
from edge.anycast.gate import DRAIN_S, PERIOD_S, Checks, GateState, Standing, decide, drain, undrain
from edge.anycast.speaker import SpeakerError
from wire.dial import DialError, Pool
from wire.figures.metrics import Metrics
from wire.figures.process import add_process_figures
from wire.scrape import Scrape, scraped
from wire.secured.tls import client_context, hop_name

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from edge.anycast.speaker import Speaker
    from wire.figures.metrics import Reading

CHECK_S: Final = 0.3  # of one check of a listener on this host: two that take longer are a frozen process
REGION_S: Final = 0.6  # twice the longest round trip on Earth; asked beside the listener's checks
REGION_PERIOD_S: Final = 0.5
LEASE_S: Final = 3  # a gate that hangs for so long is ended by the kernel, and its route goes with it
FAREWELL_S: Final = 0.5  # between de-preferring and withdrawing, when the gate is told to stop

log = logging.getLogger("nearfield.anycast")


@dataclass(frozen=True, slots=True)
class AnycastSettings:
    """One POP's gate.

    `listener` is the edge on the POP's own address, whose certificate `ca` signed (None: it speaks plain HTTP);
    `regions` are the gateways by name, reached with `hop_tls`. `bird` is BIRD's control socket and `tie` the device its
    route hangs on; without a `bird` the gate is a process of ExaBGP, which announces `prefix`. The POP drains while the
    file `drain` exists. `name` is the POP's, `scrape` where the gate's figures can be read.
    """

    listener: tuple[str, int]
    ca: Path | None
    server_name: str
    regions: Mapping[str, tuple[str, int]]
    drain: Path
    hop_tls: ssl.SSLContext | None = None
    bird: Path | None = None
    tie: str = "nf-anycast"
    prefix: str = ""
    drain_s: float = DRAIN_S
    name: str = "pop"
    scrape: Scrape | None = None


class Watch:
    """What is checked: the newest facts, each kept current by a loop of its own."""

    def __init__(self, settings: AnycastSettings) -> None:
        tls = None if settings.ca is None else client_context(settings.ca)
        self._listener = Pool(*settings.listener, tls=tls, server_name=settings.server_name, max_idle=1)
        self._regions = {
            name: Pool(*address, tls=settings.hop_tls, server_name=hop_name("region", name), max_idle=1)
            for name, address in settings.regions.items()
        }
        self._reached: dict[str, bool] = {}
        self.listener: float | None = None  # 1.0 if it answered last

    async def follow(self, name: str) -> None:
        """Keep what is known of one region current until cancelled."""
        while True:
            reached = await _answers(self._regions[name], REGION_S)
            if reached is not self._reached.get(name):
                log.info("region %s %s", name, "answers" if reached else "does not answer")
            self._reached[name] = reached
            await asyncio.sleep(REGION_PERIOD_S)

    async def check(self) -> Checks:
        """Ask our own listener now; the regions' last answers with it."""
        listener = await _answers(self._listener, CHECK_S)
        self.listener = float(listener)
        return Checks(listener, sum(self._reached.values()))

    def regions(self) -> Reading:
        """The last answers of the regions."""
        return (((name,), float(reached)) for name, reached in self._reached.items())

    async def close(self) -> None:
        """Close every connection."""
        for pool in (self._listener, *self._regions.values()):
            await pool.close()


async def _answers(pool: Pool, patience_s: float) -> bool:
    """Whether `GET /healthz` is answered with 200 in time. Each try makes a new connection if the last one broke."""
    try:
        async with asyncio.timeout(patience_s):
            answer = await pool.request("GET", "/healthz", connect_s=patience_s, head_s=patience_s)
            await answer.read(max_bytes=1024, between_s=patience_s)
    except (DialError, TimeoutError):
        return False
    return answer.head.status == 200


class Gate:
    """Runs the checks through `decide`, and the speaker after it."""

    def __init__(self, settings: AnycastSettings, watch: Watch, speaker: Speaker) -> None:
        self._settings = settings
        self._watch = watch
        self._speaker = speaker
        self._told: Standing | None = None  # what the speaker took last; None: it must be told anew
        self.state = GateState()
        self.num_changes = self.num_failures = 0

    async def run(self) -> None:
        """Check until cancelled, once in PERIOD_S whatever a check takes."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            signal.setitimer(signal.ITIMER_REAL, LEASE_S)  # SIGALRM ends a process that does not renew it
            await self.step(await self._watch.check(), loop.time())
            due = max(due + PERIOD_S, loop.time())
            await asyncio.sleep(due - loop.time())

    async def step(self, checks: Checks, now: float) -> None:
        """One round: decide, and tell the speaker if it says anything else."""
        before = self.state.standing
        self.state = decide(self._drained(now), checks, now)
        if self.state.standing is not before:
            self.num_changes += 1
            log.warning("the POP is %s now, was %s (%s)", self.state.standing, before, checks)
        try:
            await self._tell(self.state.standing)
        except SpeakerError as error:
            self._told = None
            self.num_failures += 1
            log.warning("not announced as it should be: %s", error)

    async def leave(self) -> None:
        """The gate is told to stop: de-prefer, give BGP a moment to move clients, withdraw."""
        try:
            if self._told is Standing.ANNOUNCED:
                await self._speaker.show(Standing.DRAINING)
                await asyncio.sleep(FAREWELL_S)
            await self._speaker.show(Standing.WITHDRAWN)
        except SpeakerError as error:
            log.warning("the route is left to the end of this process: %s", error)

    async def _tell(self, standing: Standing) -> None:
        """Also when the speaker was restarted and says something else by itself."""
        if standing is self._told and await self._speaker.shows() in {None, standing}:
            return
        await self._speaker.show(standing)
        self._told = standing

    def _drained(self, now: float) -> GateState:
        if self._settings.drain.exists():
            return drain(self.state, now, self._settings.drain_s)
        return undrain(self.state)


async def run(settings: AnycastSettings, ready: Callable[[int], None], stop: asyncio.Event) -> None:
    """Keep the POP's route as its health says until `stop` is set; then withdraw."""
    async with AsyncExitStack() as stack:
        speaker = _speaker(settings)
        stack.push_async_callback(speaker.close)
        watch = Watch(settings)
        stack.push_async_callback(watch.close)
        gate = Gate(settings, watch, speaker)
        metrics = Metrics()
        add_process_figures(metrics, "anycast", settings.name)
        add_gate_figures(metrics, gate, watch)
        await stack.enter_async_context(scraped(settings.scrape, metrics))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(watch.follow(name)) for name in settings.regions]
            tasks.append(group.create_task(gate.run()))
            ready(0)
            await stop.wait()
            for task in tasks:
                task.cancel()
        signal.setitimer(signal.ITIMER_REAL, 0)
        await gate.leave()


def _speaker(settings: AnycastSettings) -> Speaker:
    if settings.bird is None:
        return ExaBgp.parent(settings.prefix)
    return Bird(settings.bird, settings.tie)
