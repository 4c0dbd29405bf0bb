"""The `nearfield.toml` that `up` writes: a whole fleet on one machine, every address in the open."""

import errno
import os
import random
import socket
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import MappingProxyType

from deploy import toml
from deploy.faults import NoPorts
from deploy.trust import pki, secrets
from wire.address import split_address

LOOPBACK = "127.0.0.1"
LASTING = range(20_000, 32_768)  # below those that Linux gives to outgoing connections (ip_local_port_range)
TRIES = 8  # of these for each port that is wanted
DEFAULT_REGIONS = ("iad", "fra", "nrt")
EDGE_PORT = 8443
S3_PORT = 8444
ADMIN_PORT = 8445
USER_GRANTS = ("models::write", "nearfield-system:models/:write", "nearfield-system:proofs/:read")
FORMER_USER_GRANTS = USER_GRANTS[:2]  # of fleets before proofs were kept: theirs go on, without reading them
SYSTEM_GRANTS = ("*::admin",)
NODE_GRANTS = ("nearfield-blobs::read", "models::read")
USAGE_GRANTS = ("nearfield-system:usage/:write",)
MIB = 1024 * 1024

OWN_STORE = "own-store"

Rtt = Mapping[frozenset[str], float]
PROFILES: Mapping[str, Rtt] = MappingProxyType(
    {
        "lan": MappingProxyType({}),
        # Round trips in ms between the places that `iad fra nrt` name, as cloud providers publish them
        # (medians of public inter-region tables, rounded); the edge stands at the home region.
        "us-eu-jp": MappingProxyType(
            {
                frozenset({"iad", "fra"}): 90.0,
                frozenset({"iad", "nrt"}): 150.0,
                frozenset({"fra", "nrt"}): 230.0,
            }
        ),
    }
)
AREAS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("iad", "ord", "dfw", "sjc", "sea", "den"), "us"),
        **dict.fromkeys(("fra", "ams", "cdg", "lhr", "arn", "mad", "waw"), "eu"),
        **dict.fromkeys(("nrt", "hnd", "sin", "syd", "bom", "icn", "hkg"), "apac"),
    }
)
"""Where regions named after airports are, by the first letters of their names: the first areas of a new platform."""
BAKE_S = 1.0
"""How long `up` lets a new revision stand in the canary region: the platform of one machine has no crowd to watch."""
WAN_BYTES_PER_S = 125_000_000.0
"""A 1 Gbit/s share of a long-distance link; said as simulated wherever it shows."""


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """What `up` was asked for. `usual_ports` of the edge, its S3 and its operators: taken where free.

    With `store_rtt_ms` each region's store is so far from its region, by a SIMULATED link: the design that Nearfield is
    not, for the report to compare with. `traces` is a collector, and `trace_share` its share of requests
    that bring no trace themselves.
    """

    state: Path
    regions: tuple[str, ...] = DEFAULT_REGIONS
    profile: str = "lan"
    idle_timeout_s: float = 300.0
    memory_budget_bytes: int = 0
    landing_pool_bytes: int = 64 * MIB
    usual_ports: tuple[int, ...] = (EDGE_PORT, S3_PORT, ADMIN_PORT)
    store_rtt_ms: float = 0.0
    traces: str | None = None
    trace_share: float = 1.0


def write(plan: FleetPlan, authority: pki.LocalAuthority) -> Path:
    """Make the secrets and the TOML of a new fleet; returns the TOML's path."""
    folder = plan.state / "secrets"
    secrets.make_root_key(folder)
    keys = {region: secrets.make_signing_key(folder, region) for region in plan.regions}
    path = plan.state / "nearfield.toml"
    secrets.write_private(path, _render(plan, authority, keys).encode())
    return path


def free_ports(count: int, preferred: Iterable[int] = ()) -> list[int]:
    """`count` loopback ports that were free just now, the preferred ones first where they are free.

    The others lie where no connection of this machine gets its port, as far as there are any: they are kept in a file.

    Raises:
        NoPorts: there are not so many, as where the loopback address is missing, or one process may open too few.
    """
    ports: list[int] = []
    refused: OSError | None = None
    with ExitStack() as held:
        for port in chain(preferred, random.sample(LASTING, TRIES * count), [0] * count):
            if len(ports) == count:
                return ports
            try:
                ports.append(held.enter_context(_bound(port)).getsockname()[1])
            except OSError as error:
                refused = error
    if len(ports) < count:
        raise _too_few(count, refused)
    return ports


def _bound(port: int) -> socket.socket:
    candidate = socket.socket()
    try:
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        candidate.bind((LOOPBACK, port))
    except OSError:
        candidate.close()
        raise
    return candidate


def _too_few(count: int, refused: OSError | None) -> NoPorts:
    why = refused.strerror if refused is not None else "none is left"
    is_bound = refused is not None and refused.errno == errno.EMFILE
    fix = "ulimit -n 4096   # then the same command again" if is_bound else "nearfield doctor"
    return NoPorts(f"a platform needs {count} ports of {LOOPBACK}, and no more can be taken: {why}", fix)


def taken(addresses: Iterable[str]) -> list[str]:
    """Those loopback addresses that somebody else listens on just now."""
    return [address for address in addresses if not _is_free(*split_address(address))]


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as candidate:
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind((host, port))
        except OSError:
            return False
    return True


def memory_share(num_nodes: int) -> int:
    """Half of this machine's memory, shared out among its nodes: the other half is the stores' page cache."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return total // (2 * num_nodes)


class _Toml:
    """The few TOML forms that a fleet file needs."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def table(self, name: str, values: Mapping[str, object]) -> None:
        self.lines += ["", f"[{name}]", *(toml.pair(k, v) for k, v in values.items() if v is not None)]

    def item(self, name: str, values: Mapping[str, object]) -> None:
        self.lines += ["", f"[[{name}]]", *(toml.pair(k, v) for k, v in values.items())]


@dataclass(frozen=True, slots=True)
class _Ports:
    """Every port of the fleet, by role."""

    edge: int
    s3: int
    admin: int
    pin: Mapping[str, int]
    store: Mapping[str, int]
    gateway: Mapping[str, int]
    node: Mapping[str, int]
    wan: Mapping[tuple[str, str], int]
    metrics: Mapping[str, int]


def _ports(plan: FleetPlan) -> _Ports:
    links = _links(plan)
    regions = plan.regions
    shown = ["edge", *(f"{role}-{region}" for role in ("store", "gateway", "node") for region in regions)]
    free = iter(free_ports(3 + 4 * len(regions) + len(links) + len(shown), plan.usual_ports))
    edge, s3, admin = next(free), next(free), next(free)
    pin, store, gateway, node = ({region: next(free) for region in regions} for _ in range(4))
    wan = {link: next(free) for link in links}
    return _Ports(edge, s3, admin, pin, store, gateway, node, wan, {name: next(free) for name in shown})


def _links(plan: FleetPlan) -> dict[tuple[str, str], float]:
    """Each simulated link as (from, to) -> rtt_ms: edge to far gateways, far regions home, regions to far stores."""
    home = plan.regions[0]
    rtt = PROFILES[plan.profile]
    far = {r: rtt[frozenset({home, r})] for r in plan.regions if frozenset({home, r}) in rtt}
    apart = dict.fromkeys(plan.regions, plan.store_rtt_ms) if plan.store_rtt_ms else {}
    return (
        {("edge", r): ms for r, ms in far.items()}
        | {(r, "home-store"): ms for r, ms in far.items()}
        | {(r, OWN_STORE): ms for r, ms in apart.items()}
    )


def _render(plan: FleetPlan, authority: pki.LocalAuthority, keys: Mapping[str, str]) -> str:
    toml, ports, home = _Toml(), _ports(plan), plan.regions[0]
    simulated = plan.profile != "lan"
    toml.lines.append(
        "# Written by `nearfield up`. One file serves every role: nearfield run ROLE NAME --config FILE"
    )
    toml.table(
        "platform",
        {
            "home": home,
            "secrets": "secrets",
            "idle_timeout_s": plan.idle_timeout_s,
            "wan_profile": plan.profile if simulated else None,
        },
    )
    if plan.traces is not None:
        toml.table("tracing", {"endpoint": plan.traces, "sample": plan.trace_share})
    for grants in (SYSTEM_GRANTS, NODE_GRANTS, USAGE_GRANTS, USER_GRANTS):
        toml.item("access_keys", {"id": secrets.new_access_key_id(), "grants": list(grants)})
    for region in plan.regions:
        _render_region(toml, plan, ports, region, keys[region])
    toml.table(
        "edges.local",
        {
            "listen": _at(ports.edge),
            "s3": _at(ports.s3),
            "admin": _at(ports.admin),
            "metrics": _at(ports.metrics["edge"]),
            "cert": os.path.relpath(authority.cert, plan.state),
            "key": os.path.relpath(authority.key, plan.state),
            "state": "edge",
        },
    )
    toml.table("edges.local.pins", {r: _at(ports.pin[r]) for r in plan.regions})
    toml.table("edges.local.via", {r: _at(p) for (start, r), p in ports.wan.items() if start == "edge"})
    for (start, end), rtt_ms in _links(plan).items():
        target = _link_end(ports, home, start, end)
        link = {"listen": _at(ports.wan[start, end]), "connect": _at(target), "rtt_ms": rtt_ms}
        toml.table(f"wan.{start}-{end}", link | {"bytes_per_s": WAN_BYTES_PER_S})
    return "\n".join(toml.lines) + "\n"


def _link_end(ports: _Ports, home: str, start: str, end: str) -> int:
    """The port that a simulated link leads to."""
    if start == "edge":
        return ports.gateway[end]
    return ports.store[start if end == OWN_STORE else home]


def _render_region(toml: _Toml, plan: FleetPlan, ports: _Ports, region: str, public_key: str) -> None:
    far = ports.wan.get((region, "home-store"))
    apart = ports.wan.get((region, OWN_STORE))
    budget = plan.memory_budget_bytes or memory_share(len(plan.regions))
    toml.table(
        f"regions.{region}",
        {
            "gateway": _at(ports.gateway[region]),
            "store": f"http://{_at(apart or ports.store[region])}",
            "nodes": [_at(ports.node[region])],
            "public_key": public_key,
            "home_store": f"http://{_at(far)}" if far else None,
            "metrics": _at(ports.metrics[f"gateway-{region}"]),
        },
    )
    toml.table(
        f"stores.{region}",
        {
            "listen": _at(ports.store[region]),
            "root": f"{region}/store",
            "metrics": _at(ports.metrics[f"store-{region}"]),
        },
    )
    toml.table(
        f"nodes.{region}-0",
        {
            "region": region,
            "listen": _at(ports.node[region]),
            "state": f"{region}/node",
            "memory_budget_bytes": budget,
            "host_cache_bytes": budget,
            "landing_pool_bytes": plan.landing_pool_bytes,
            "zygote": "zygote",
            "metrics": _at(ports.metrics[f"node-{region}"]),
            "handoff": False if apart else None,
        },
    )


def _at(port: int) -> str:
    return f"{LOOPBACK}:{port}"
