"""The tables of `nearfield.toml`, one frozen value each: what a role, a link or a key is told, and its defaults."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from inference.devices import CPU
from weights_cache.reading.patience import RETRY_FOR_S, STALL_S

MIB = 1024 * 1024
PatienceTable = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class PlatformEntry:
    """What holds for every role: the home region and the folder of this host's secrets.

    `idle_timeout_s` stops workers unused for so long; a pushed model is looked at once its prefix was quiet for
    `quiet_s`. `wan_profile` names the SIMULATED delays. Without `mutual_tls` edges and gateways show each other
    certificates wherever bytes leave the machine.
    """

    home: str
    secrets: Path
    idle_timeout_s: float = 300.0
    quiet_s: float = 2.0
    wan_profile: str | None = None
    mutual_tls: bool | None = None


@dataclass(frozen=True, slots=True)
class AccessKeyEntry:
    """One S3 access key: its secret is derived from the root key, so no file of the fleet holds it.

    A `user` owns the buckets that its keys make under an `own` grant.
    """

    id: str
    grants: tuple[str, ...]
    generation: int = 1
    old_until_s: float = 0.0  # Unix time until which the generation before is honoured too
    user: str = ""


@dataclass(frozen=True, slots=True)
class WebhookEntry:
    """One endpoint that buckets' notifications may name, by `arn:nearfield:webhook:::<id>`.

    `secret` is a file of mode 0600 whose content signs deliveries; `ca` a file with the certificates to trust.
    """

    id: str
    url: str
    secret: Path
    ca: Path | None = None


@dataclass(frozen=True, slots=True)
class StoreEntry:
    """The embedded object store of one region: where it listens and where its bytes live.

    `anonymous` lets anybody who reaches it use, without a key, what an ACL or a policy opens to everybody.
    `domains`: names whose subdomains are buckets (virtual-host style), where they resolve to this store.
    `sigv2`: presigned URLs and forms of Signature Version 2 too, which is weaker, for clients that make no other.
    `copies_bytes`: how much it keeps of what its callers read of other regions' buckets; 0 is its default.
    `metrics` is where its figures are read (`GET /metrics`): on a loopback address by this machine alone, on another
    by who shows the fleet's metrics key (`nearfield config scrape --key`); without it, nowhere; so for every role.
    """

    listen: str
    root: Path
    anonymous: bool = False
    domains: tuple[str, ...] = ()
    sigv2: bool = False
    copies_bytes: int = 0
    metrics: str | None = None


@dataclass(frozen=True, slots=True)
class NodeEntry:
    """One inference host: its region, its private address and its budgets.

    With `handoff` a store of the same region and host hands its files of weights over, to be mapped without a copy.
    Weights that are read instead are kept in the folder `cache`, if one is named, within `host_cache_bytes`, so that a
    restart finds them: a tmpfs, or a disk if the node may lock its pages in memory. Without it they go with the node.
    A read of the store that gets no byte for `store_stall_s` is given up and begun again, as one is that fails, and
    none is begun again `store_retry_s` after the first: then the start has failed.
    `device` is "cpu" or "cuda:N"; with a GPU `memory_budget_bytes` is what models may take of its memory, and so many
    processes as `num_spares` stand ready with its context up (1 if it is not given). Nodes of one host that name the
    same folder `zygote` share the process that has torch and transformers imported; it is started by the first of them.
    """

    region: str
    listen: str
    state: Path
    memory_budget_bytes: int = 4096 * MIB
    host_cache_bytes: int = 4096 * MIB
    landing_pool_bytes: int = 0
    cache: Path | None = None
    store_stall_s: float = STALL_S
    store_retry_s: float = RETRY_FOR_S
    num_threads: int = 0
    max_slots: int = 64
    handoff: bool = True
    device: str = CPU
    num_spares: int | None = None
    zygote: Path | None = None
    metrics: str | None = None

    @property
    def spares(self) -> int:
        """Processes to keep ready with the device's context up: one, unless told; none on the CPU, which has none."""
        return int(self.device != CPU) if self.num_spares is None else self.num_spares


@dataclass(frozen=True, slots=True)
class RegionEntry:
    """One region as every other machine sees it: gateway, store, nodes and the key that signs its rows.

    `store` is a URL: of the embedded store, or of any S3 that the probe finds fit; then `store_credentials` names a
    file of mode 0600 in the form that AWS tools read. `replication_bytes_per_s` bounds what the region pulls from
    home, so that its callers keep their share of the link; 0: nothing does.
    """

    gateway: str
    store: str
    nodes: tuple[str, ...]
    public_key: str
    home_store: str | None = None
    store_credentials: Path | None = None
    replication_bytes_per_s: float = 0.0
    metrics: str | None = None


@dataclass(frozen=True, slots=True)
class EdgeEntry:
    """One point of presence: its listeners, its certificate and how it reaches each region.

    `s3` passes users' S3 traffic on to the embedded store of `s3_region`, the home region if it is not given. A store
    that is not the home forwards writes there, and reads through. `certificates` is a folder of further certificates,
    `NAME/chain.pem` and `NAME/key.pem`, each shown to clients that ask for a name in it. `anycast` is one
    more listener, on the address that several POPs announce; its answers name this POP's own address, `unicast` (a host
    name and port), by Alt-Svc.
    `admin` is the listener for
    operators, with routes of its own; keep it off the internet. Without it this edge cannot be asked or steered.
    `patience` is how long it waits for a region, phase by phase: under "" for all requests, under a model (`org/name`)
    or a path (`/v1/...`) for those. `workers` are the processes that the edge is, one for a core that it may have.
    With `served_hosts` users' listeners answer for these host names and the address that they listen on, and no other
    ("*": any); without it for the names that its certificates cover.
    """

    listen: str
    cert: Path
    key: Path
    state: Path
    certificates: Path | None = None
    admin: str | None = None
    s3: str | None = None
    s3_region: str | None = None
    anycast: str | None = None
    unicast: str | None = None
    workers: int = 1
    served_hosts: tuple[str, ...] = ()
    metrics: str | None = None
    pins: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    via: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    patience: "PatienceTable" = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class AnycastEntry:
    """The gate of one POP, which is the edge of the same name: it has BGP announce the anycast address, or not.

    `bird` is the control socket of BIRD 2, whose routes lead to the device `tie`; without it the gate is a process of
    ExaBGP and announces `prefix`. `ca` is what signed the edge's certificate, for `server_name`. The POP drains while
    the file `drain` exists, for `drain_s` as a last resort, then not at all.
    """

    ca: Path
    drain: Path
    server_name: str = "localhost"
    bird: Path | None = None
    tie: str = "nf-anycast"
    prefix: str = ""
    drain_s: float = 30.0
    metrics: str | None = None


@dataclass(frozen=True, slots=True)
class TracingEntry:
    """Where edges, regions and nodes send traces: a collector of OTLP over HTTP, such as `http://127.0.0.1:4318`.

    `sample` is the share of requests to record of those that come without a trace; of the others their sampled flag
    decides. No process records more than `traces_per_s`. `authorization` is a file of mode 0600 with what the collector
    wants in the header of that name; `ca` has the certificates to trust, where they are not the system's.
    """

    endpoint: str
    sample: float = 0.01
    traces_per_s: float = 100.0
    authorization: Path | None = None
    ca: Path | None = None


@dataclass(frozen=True, slots=True)
class WanLink:
    """A SIMULATED long-distance link: what enters at `listen` leaves at `connect`, half of rtt_ms later."""

    listen: str
    connect: str
    rtt_ms: float
    bytes_per_s: float = 0.0
