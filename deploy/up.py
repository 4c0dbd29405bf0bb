"""The whole platform on one machine: starts every role as its own process, keeps them up, stops them all."""

import asyncio
import datetime as dt
import http.client
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any

from deploy import fleet, listening
from deploy.client import ApiError, Client, Unreachable
from deploy.config.document import Config, listeners
from deploy.config.read import load
from deploy.faults import NoRoom, PortTaken, RoleFailed
from deploy.forks.link import ForkLink
from deploy.forks.role import RoleProcess
from deploy.lock import hold
from deploy.roles.bootstrap import bootstrap
from deploy.terminal import pasted
from deploy.trust import pki
from deploy.trust.credentials import Credentials
from wire.address import split_address
from wire.counted import counted

READY_S = 60.0
"""Imports of a node's shell take 5-15 s on two busy cores; a role that needs a minute is broken."""
HEARD_S = 3.0
"""Regions speak every second; one that was silent for three is not up."""
POLL_S = 0.1
POLL_DEADLINE_S = 2.0
STOP_GRACE_S = 10.0
RESTART_PAUSE_S = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Waits before the first, second, ... restart of one role: quick after one kill, slow for a crash loop."""
LEAST_FREE_BYTES = 16 * 1024**2
"""What a start writes is less than a MB; a platform that can write no log and no row tells nobody what it lacks."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Running:
    """A platform that serves: its configuration and what a client needs."""

    config: Config
    credentials: Credentials


class Platform:
    """Every role of one `nearfield.toml` on this machine, supervised."""

    def __init__(self, plan: fleet.FleetPlan, say: Say) -> None:
        self._plan, self._say = plan, say
        self._forks = ForkLink(plan.state / "logs" / "up-forks.log")
        self._roles: list[RoleProcess] = []
        self._watchers: list[asyncio.Task[None]] = []
        self._lock: IO[str] | None = None

    @property
    def roles(self) -> tuple[RoleProcess, ...]:
        """The processes, in the order they were started."""
        return tuple(self._roles)

    async def start(self) -> Running:
        """Bring everything up; what is already in the state folder is served again.

        Raises:
            StateInUse: another `up` runs on this folder.
            StateUnusable: nothing can be written there.
            NoRoom: its disk is full.
            PortTaken: somebody else listens where a role should.
            RoleFailed: a role's process did not come up.
        """
        _check_room(self._plan.state)
        self._lock = hold(self._plan.state)
        config = self._prepare()
        for role, name in _order(config):
            log = self._plan.state / "logs" / f"{role}-{name}.log"
            self._roles.append(RoleProcess(self._forks, role, name, config.path, log))
        self._say(f"starting {counted(len(self._roles), 'process')} for {', '.join(config.regions)}")
        await asyncio.gather(*(role.start() for role in self._roles))
        await self._wait_ready("store")
        credentials = await bootstrap(config, self._plan.state)
        for role in ("node", "region", "wan", "edge"):
            await self._wait_ready(role)
        self._watchers = [asyncio.create_task(self._keep_up(role)) for role in self._roles]
        await asyncio.to_thread(until_heard, Client(credentials, admin=True))
        await asyncio.gather(*(asyncio.to_thread(until_able, node.listen) for node in config.nodes.values()))
        return Running(config, credentials)

    async def stop(self) -> None:
        """Stop every role, edge first, and return when no process is left."""
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        for kind in ("edge", "wan", "region", "node", "store"):
            await asyncio.gather(*(r.stop(STOP_GRACE_S) for r in self._roles if r.role == kind))
        await self._forks.close()
        if self._lock is not None:
            self._lock.close()

    def _prepare(self) -> Config:
        path = self._plan.state / "nearfield.toml"
        authority = pki.ensure(self._plan.state / "tls", dt.datetime.now(dt.UTC))
        if not path.exists():
            fleet.write(self._plan, authority)
            self._say_moved(load(path))
        config = load(path)
        _check_free(config)
        return config

    def _say_moved(self, config: Config) -> None:
        """The well-known ports were taken: say so, since these will stay."""
        edge = next(iter(config.edges.values()))
        for address, usual in (
            (edge.listen, fleet.EDGE_PORT),
            (edge.s3 or "", fleet.S3_PORT),
            (edge.admin or "", fleet.ADMIN_PORT),
        ):
            if not address.endswith(f":{usual}"):
                self._say(f"port {usual} is taken: using {address} from now on")

    async def _wait_ready(self, kind: str) -> None:
        await asyncio.gather(*(r.wait_ready(READY_S) for r in self._roles if r.role == kind))

    async def _keep_up(self, role: RoleProcess) -> None:
        """Start a role again whenever it ends: what a host's init system does in a real fleet."""
        while True:
            status = await role.wait_end()
            pause = RESTART_PAUSE_S[min(role.num_starts, len(RESTART_PAUSE_S)) - 1]
            self._say(f"{role.role} {role.name} ended with status {status}; starting it again in {pause} s")
            await asyncio.sleep(pause)
            try:
                await role.start()
                await role.wait_ready(READY_S)
            except RoleFailed as error:
                self._say(str(error))


def until_heard(client: Client) -> None:
    """Wait until the edge hears every region: before that it would route by what it remembers from last time.

    Raises:
        RoleFailed: one was still silent after `READY_S`.
    """
    end, silent = time.monotonic() + READY_S, ["the edge"]
    while time.monotonic() < end:
        try:
            regions = client.get("/nearfield/status").body["regions"]
        except (ApiError, Unreachable) as error:
            silent = [str(error)]
        else:
            silent = [region for region, seen in regions.items() if not _is_heard(seen)]
        if not silent:
            return
        time.sleep(POLL_S)
    raise RoleFailed(f"the edge does not hear {', '.join(silent)}; look into the logs of region and node")


def until_able(address: str) -> None:
    """Wait until a node can fork workers: its shell imports torch and transformers first, for some seconds.

    Raises:
        RoleFailed: it could not after `READY_S`.
    """
    end = time.monotonic() + READY_S
    while time.monotonic() < end:
        connection = http.client.HTTPConnection(*split_address(address), timeout=POLL_DEADLINE_S)
        try:
            connection.request("GET", "/healthz")
            if connection.getresponse().status == HTTPStatus.OK:
                return
        except (OSError, http.client.HTTPException):
            pass  # not listening yet, or too busy importing: it is asked again
        finally:
            connection.close()
        time.sleep(POLL_S)
    raise RoleFailed(f"the node at {address} cannot fork workers after {READY_S:.0f} s; look into its log")


def _is_heard(seen: Mapping[str, Any]) -> bool:
    heard = seen["heard_s"]
    return heard is not None and heard < HEARD_S and seen["breaker"] == "closed"


def _check_room(state: Path) -> None:
    """Raises NoRoom: a start would fail at the first file that it writes."""
    folder = next(each for each in (state, *state.parents) if each.is_dir())
    free = shutil.disk_usage(folder).free
    if free < LEAST_FREE_BYTES:
        raise NoRoom(
            f"the disk under {state} is full: {free / 1e6:.1f} MB are free, a start needs {LEAST_FREE_BYTES / 1e6:.0f}",
            f"free some of it (df -h {state}), or start in another folder: nearfield up --state DIR",
        )


def _check_free(config: Config) -> None:
    """Raises PortTaken: somebody else listens where a role of this fleet should."""
    addresses = listeners(config)
    busy = set(fleet.taken(addresses.values()))
    if busy:
        key = next(key for key, address in addresses.items() if address in busy)
        raise _taken(key, addresses[key], config.path)


def _taken(key: str, address: str, path: Path) -> PortTaken:
    """Which address of which key, by whom as far as that can be seen, and how to get it back."""
    whose = listening.on(split_address(address)[1])
    if whose is None:
        return PortTaken(
            f"{address} (`{key}`) is taken by another process", f"stop that one, or change `{key}` in {path}"
        )
    if whose.state is not None:
        cause = f"{address} (`{key}`) is taken by the platform in {whose.state}"
        return PortTaken(cause, f"nearfield stop{pasted.state_option(whose.state)}")
    return PortTaken(
        f"{address} (`{key}`) is taken by {whose}", f"kill {whose.pid}   # or change `{key}` in {path}"
    )


def _order(config: Config) -> Iterable[tuple[str, str]]:
    yield from (("store", name) for name in config.stores)
    yield from (("node", name) for name in config.nodes)
    yield from (("region", name) for name in config.regions)
    if config.wan:
        yield "wan", "links"
    yield from (("edge", name) for name in config.edges)
