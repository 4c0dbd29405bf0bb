"""What the fleet of a state folder has: ports, names, stores by their probe, clocks, devices, engines; and does it run?

Nothing is said where no platform was ever made in that folder.
"""

import email.utils
import http.client
import shutil
import socket
import time
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from deploy import fleet
from deploy.client import ApiError, Client, Unreachable
from deploy.config.document import Config, listeners
from deploy.config.read import load
from deploy.doctor.finding import Finding
from deploy.doctor.machine import gpus
from deploy.faults import NOT_YOURS, ConfigError, NotYours, Silent
from deploy.fleet import SYSTEM_GRANTS
from deploy.lock import holder
from deploy.roles.runner import endpoint
from deploy.terminal import patience
from deploy.terminal.remedy import with_state
from deploy.trust import credentials
from deploy.trust.secrets import SecretsError
from storage.client.probe import Capabilities, probe
from storage.client.sdk import S3, Endpoint, StoreError
from wire.address import split_address
from wire.counted import counted

FIT = "creation once, conditional reads, ranges and copies hold"
PROBED_BUCKET = "nearfield-system"
ASK_S = 2.0
MAX_SKEW_S = 5.0
"""A store's Date has whole seconds; signatures bear 15 minutes, rows of regions 5."""
TICK_S = 1.0
"""Of a Date, which leaves out what is less: without half of it most clocks looked a second behind."""
MAX_SILENCE_S = 5.0
PROBE_S = 15.0


def config_of(state: Path) -> Config | None:
    """The fleet's configuration, if there is one. Raises ConfigError."""
    path = state / "nearfield.toml"
    return load(path) if path.exists() else None


def configuration(state: Path) -> Iterator[Finding]:
    """Whether every role would take the file."""
    try:
        config = config_of(state)
    except ConfigError as error:
        fix = error.next_step or "See the values and their lines: nearfield config show --origin"
        yield Finding("configuration", well=False, seen=str(error), fix=fix)
        return
    if config is not None:
        yield Finding("configuration", well=True, seen=f"{config.path}: {', '.join(config.regions)}")


def ports(config: Config, state: Path) -> Iterator[Finding]:
    """Of a platform that runs: each listens. Of one that does not: each is free."""
    addresses = {key: address for key, address in listeners(config).items() if _is_here(address)}
    if holder(state) is None:
        busy = set(fleet.taken(addresses.values()))
        wrong = [f"{key} = {address}" for key, address in addresses.items() if address in busy]
        seen = "free" if not wrong else f"taken by another process: {', '.join(wrong)}"
        fix = (
            "If they are roles of this fleet, started by `nearfield run`, all is well; else stop what listens "
            f"there (ss -ltnp), or change the key in {config.path}."
        )
    else:
        wrong = [f"{key} = {address}" for key, address in addresses.items() if not _answers(address)]
        seen = "all listen" if not wrong else f"nobody listens: {', '.join(wrong)}"
        fix = "See why: nearfield logs"
    yield Finding("ports", not wrong, f"{len(addresses)} of this fleet: {seen}", fix)


def nodes(config: Config, state: Path) -> Iterator[Finding]:
    """Whether each node of a platform that runs here can fork workers: one that is stopped still listens."""
    here = {name: node.listen for name, node in config.nodes.items() if _is_here(node.listen)}
    if holder(state) is None or not here:
        return
    wrong = [name for name, address in here.items() if not _is_able(address)]
    seen = counted(len(here), "node") + (f"; not able to start workers: {', '.join(wrong)}" if wrong else "")
    yield Finding("nodes", not wrong, seen, "See why: nearfield logs")


def _is_able(address: str) -> bool:
    connection = http.client.HTTPConnection(*split_address(address), timeout=ASK_S)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _is_here(address: str) -> bool:
    return split_address(address)[0] in {"127.0.0.1", "localhost", "::1", "0.0.0.0"}


def _answers(address: str) -> bool:
    host, port = split_address(address)
    try:
        socket.create_connection(("127.0.0.1" if host == "0.0.0.0" else host, port), ASK_S).close()
    except OSError:
        return False
    return True


def names(config: Config, _state: Path) -> Iterator[Finding]:
    """Every host that the configuration names has an address."""
    urls = {entry.store for entry in config.regions.values()}
    hosts = {urlsplit(url).hostname or "" for url in urls}
    hosts |= {split_address(entry.gateway)[0] for entry in config.regions.values()}
    lost = [host for host in sorted(hosts) if not _resolves(host)]
    seen = counted(len(hosts), "host") if not lost else f"no address for {', '.join(lost)}"
    fix = "Mend the name in nearfield.toml, /etc/hosts or the resolver in /etc/resolv.conf."
    yield Finding("resolver", not lost, seen, fix)


def _resolves(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None)
    except (socket.gaierror, UnicodeError):
        return False
    return True


def stores(config: Config, _state: Path) -> Iterator[Finding]:
    """What the store of each region can do, asked of it; and how far its clock is from ours."""
    for region, entry in config.regions.items():
        name = f"store {region}"
        try:
            found = patience.ask(
                _probed(endpoint(config, region, SYSTEM_GRANTS)), f"the store in region {region}", PROBE_S
            )
        except (StoreError, SecretsError, Silent) as error:
            yield Finding(name, well=False, seen=str(error), fix=_fix_of(error, entry.store))
            continue
        faults = "; ".join(found.faults())
        fix = f"No model can be served from {entry.store}: name another endpoint as `store`."
        yield Finding(name, not faults, faults or "; ".join((FIT, *found.remarks())), fix)
        yield from _skew(region, entry.store)


def _fix_of(error: Exception, url: str) -> str:
    if isinstance(error, StoreError) and error.code == "InsufficientStorage":
        return f"Free some of the disk under {url}: delete objects or models (`nearfield rm`), which it still does."
    return f"{url} must be up, and its credentials must hold."


async def _probed(store: Endpoint) -> Capabilities:
    async with S3(store) as s3:
        await s3.ensure_bucket(PROBED_BUCKET)
        return await probe(s3, PROBED_BUCKET)


def _skew(region: str, url: str) -> Iterator[Finding]:
    """Nothing is said of a store that sends no Date."""
    date = _date(url)
    if date is None:
        return
    off = date + TICK_S / 2 - time.time()
    fix = "Have a time server keep the clocks of both hosts: signatures and rows carry times."
    seen = f"{abs(off):.0f} s {'ahead' if off > 0 else 'behind'}" if abs(off) >= 1 else "agrees with ours"
    yield Finding(f"clock of store {region}", abs(off) < MAX_SKEW_S, seen, fix)


def _date(url: str) -> float | None:
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=ASK_S)
    try:
        connection.request("GET", "/")
        said = connection.getresponse().getheader("date")
        return email.utils.parsedate_to_datetime(said).timestamp() if said else None
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()


def devices(config: Config, _state: Path) -> Iterator[Finding]:
    """Whether the GPUs are here that nodes name; a node of another host has its own."""
    wanted = {
        name: int(node.device.partition(":")[2]) for name, node in config.nodes.items() if ":" in node.device
    }
    if not wanted:
        return
    num = len(gpus())
    lost = [f"nodes.{name}.device = cuda:{each}" for name, each in wanted.items() if each >= num]
    seen = f"{num} GPUs here" + (f"; too few for {', '.join(lost)}" if lost else "")
    yield Finding(
        "gpu of nodes", not lost, seen, "Install the driver, or name a device that `nvidia-smi` shows."
    )


def engines(config: Config, _state: Path) -> Iterator[Finding]:
    """The programs of the external engines that the operator defined."""
    for name, made in config.engines.items():
        programs = [words[0] for words in (made.command, made.prepare) if words]
        absent = [program for program in programs if shutil.which(program) is None]
        seen = f"no {', '.join(absent)} on this host" if absent else " ".join(programs)
        fix = f"Install it, or correct [engines.{name}] in {config.path}; another host may be the one that has it."
        yield Finding(f"engine {name}", not absent, seen, fix)


def platform(state: Path) -> Iterator[Finding]:
    """Whether it runs, and whether the edge hears each region."""
    try:
        pid = holder(state)
    except NotYours as error:
        yield Finding("platform", well=False, seen=str(error), fix=NOT_YOURS)
        return
    if pid is None:
        yield Finding(
            "platform",
            well=False,
            seen=f"no `nearfield up` runs in {state}",
            fix=f"Start it: {with_state('nearfield up')}; of a fleet, each role: nearfield run ROLE NAME",
        )
        return
    yield Finding("platform", well=True, seen=f"process {pid}")
    try:
        regions = Client(credentials.load(state), admin=True).get("/nearfield/status").body["regions"]
    except SecretsError as error:
        yield Finding("edge", well=False, seen=str(error), fix=error.next_step)
        return
    except (Unreachable, ApiError, credentials.NoPlatform) as error:
        yield Finding("edge", well=False, seen=str(error), fix="See why: nearfield logs --role edge")
        return
    for name, seen in regions.items():
        heard = seen.get("heard_s")
        well = heard is not None and heard < MAX_SILENCE_S
        words = f"heard {heard:.1f} s ago, {seen['rtt_ms']:.1f} ms away" if well else "not heard"
        yield Finding(f"region {name}", well, words, f"See why: nearfield logs --region {name}")
