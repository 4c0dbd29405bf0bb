"""One TOML for every role: parsed once, here, into frozen values; every address of the fleet stands in it."""

import difflib
import ipaddress
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from deploy.acme import AcmeEntry, AcmePartError, OrderEntry
from deploy.acme import check as check_acme
from deploy.dns import DnsEntry, DnsError, PopEntry, ServerEntry, check
from inference.devices import CPU, MAX_SPARES, parse_device
from inference.outside.definition import Definition, DefinitionError, EngineEntry, defined

MIB = 1024 * 1024
MAX_CONFIG_BYTES = 1 * MIB
"""A fleet of 100 regions is about 40 KiB of TOML; more is a mistake."""

SECTIONS = (
    "platform",
    "wan",
    "access_keys",
    "webhooks",
    "stores",
    "nodes",
    "regions",
    "edges",
    "anycast",
    "engines",
    "dns",
    "acme",
)

PLATFORM_KEYS = ("home", "secrets", "idle_timeout_s", "quiet_s", "wan_profile", "mutual_tls")

PHASES = ("connect_s", "first_byte_s", "between_s", "total_s")
PatienceTable = Mapping[str, Mapping[str, float]]

T = TypeVar("T")


class ConfigError(Exception):
    """The configuration cannot be used; the message names the key, the cause and the next step."""


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
    """

    listen: str
    root: Path
    anonymous: bool = False
    domains: tuple[str, ...] = ()
    sigv2: bool = False
    copies_bytes: int = 0


@dataclass(frozen=True, slots=True)
class NodeEntry:
    """One inference host: its region, its private address and its budgets.

    With `handoff` a store of the same region and host hands its files of weights over, to be mapped without a copy.
    Weights that are read instead are kept in the folder `cache`, if one is named, within `host_cache_bytes`, so that a
    restart finds them: a tmpfs, or a disk if the node may lock its pages in memory. Without it they go with the node.
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
    num_threads: int = 0
    max_slots: int = 64
    handoff: bool = True
    device: str = CPU
    num_spares: int | None = None
    zygote: Path | None = None

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
    or a path (`/v1/...`) for those.
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


@dataclass(frozen=True, slots=True)
class WanLink:
    """A SIMULATED long-distance link: what enters at `listen` leaves at `connect`, half of rtt_ms later."""

    listen: str
    connect: str
    rtt_ms: float
    bytes_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Config:
    """The whole fleet, as written in `nearfield.toml`."""

    path: Path
    home: str
    secrets: Path
    idle_timeout_s: float
    quiet_s: float
    wan_profile: str | None
    mutual_tls: bool
    access_keys: tuple[AccessKeyEntry, ...]
    webhooks: tuple[WebhookEntry, ...]
    stores: Mapping[str, StoreEntry]
    nodes: Mapping[str, NodeEntry]
    regions: Mapping[str, RegionEntry]
    edges: Mapping[str, EdgeEntry]
    wan: Mapping[str, WanLink]
    engines: Mapping[str, Definition] = field(default_factory=lambda: MappingProxyType({}))
    dns: DnsEntry | None = None
    acme: AcmeEntry | None = None
    anycast: Mapping[str, AnycastEntry] = field(default_factory=lambda: MappingProxyType({}))


def listeners(config: Config) -> dict[str, str]:
    """Every address that this machine would listen on if it ran all roles, by the key that names it."""
    found = {f"stores.{name}.listen": entry.listen for name, entry in config.stores.items()}
    found |= {f"nodes.{name}.listen": entry.listen for name, entry in config.nodes.items()}
    found |= {f"regions.{name}.gateway": entry.gateway for name, entry in config.regions.items()}
    found |= {f"wan.{name}.listen": entry.listen for name, entry in config.wan.items()}
    for name, entry in config.edges.items():
        found[f"edges.{name}.listen"] = entry.listen
        found |= {f"edges.{name}.pins.{region}": address for region, address in entry.pins.items()}
        found |= {f"edges.{name}.s3": entry.s3} if entry.s3 else {}
        found |= {f"edges.{name}.anycast": entry.anycast} if entry.anycast else {}
        found |= {f"edges.{name}.admin": entry.admin} if entry.admin else {}
    return found


def load(path: Path) -> Config:
    """Read and check `path`.

    Raises:
        ConfigError: unreadable, not TOML, an unknown or missing key, or a value of the wrong type.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}. Name the file with --config, or run `nearfield up`."
        ) from error
    if len(raw) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path} is {len(raw)} bytes; at most {MAX_CONFIG_BYTES} are read.")
    try:
        tree = tomllib.loads(raw.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    return parse(tree, path)


def parse(tree: Mapping[str, Any], path: Path) -> Config:
    """Turn a parsed TOML tree into a Config; relative paths are taken from the file's own folder."""
    base = path.parent
    _known(tree, SECTIONS, "")
    platform = _table(tree, "platform")
    _known(platform, PLATFORM_KEYS, "platform")
    regions = _entries(RegionEntry, tree, "regions", base)
    config = Config(
        path=path,
        home=_need(platform, "home", str, "platform"),
        secrets=base / _need(platform, "secrets", str, "platform"),
        idle_timeout_s=_number(platform, "idle_timeout_s", 300.0, "platform"),
        quiet_s=_number(platform, "quiet_s", 2.0, "platform"),
        wan_profile=platform.get("wan_profile"),
        mutual_tls=_mutual_tls(platform, regions),
        access_keys=tuple(
            _entry(AccessKeyEntry, item, f"access_keys[{i}]", base)
            for i, item in enumerate(tree.get("access_keys", []))
        ),
        webhooks=tuple(
            _entry(WebhookEntry, item, f"webhooks[{i}]", base)
            for i, item in enumerate(tree.get("webhooks", []))
        ),
        stores=_entries(StoreEntry, tree, "stores", base),
        nodes=_entries(NodeEntry, tree, "nodes", base),
        regions=regions,
        edges=_entries(EdgeEntry, tree, "edges", base),
        wan=_entries(WanLink, tree, "wan", base),
        engines=_engines(tree, base),
        dns=_dns(tree, base),
        acme=_acme(tree, base),
        anycast=_entries(AnycastEntry, tree, "anycast", base),
    )
    _check(config)
    return config


def _mutual_tls(platform: Mapping[str, Any], regions: Mapping[str, RegionEntry]) -> bool:
    """Whether edges and gateways show each other certificates: unless told, wherever bytes leave the machine."""
    if "mutual_tls" in platform:
        return bool(_convert(platform["mutual_tls"], "bool", "platform.mutual_tls", Path()))
    return not all(_is_loopback(region.gateway) for region in regions.values())


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def pick(entries: Mapping[str, T], name: str | None, role: str) -> tuple[str, T]:
    """The entry called `name`, or the only one there is.

    Raises:
        ConfigError: no such entry, or several and no name given.
    """
    if name is None and len(entries) == 1:
        return next(iter(entries.items()))
    if name is not None and name in entries:
        return name, entries[name]
    known = ", ".join(sorted(entries)) or "none"
    raise ConfigError(f"which {role}? The configuration has: {known}. Run `nearfield run {role} NAME`.")


def _check(config: Config) -> None:
    if config.home not in config.regions:
        known = ", ".join(config.regions)
        raise ConfigError(f"platform.home = {config.home!r} is not one of [regions]: {known}")
    _check_stores(config)
    names = [webhook.id for webhook in config.webhooks]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"there are two [[webhooks]] with id = {name!r}; each needs its own")
    for name, node in config.nodes.items():
        if node.region not in config.regions:
            raise ConfigError(f"nodes.{name}.region = {node.region!r} is not one of [regions]")
        _check_device(f"nodes.{name}", node)
    for name, edge in config.edges.items():
        for region in (*edge.pins, *edge.via, *([edge.s3_region] if edge.s3_region else [])):
            if region not in config.regions:
                raise ConfigError(f"edges.{name} names region {region!r}, which is not one of [regions]")
    for name, gate in config.anycast.items():
        _check_anycast(config, name, gate)


def _check_anycast(config: Config, name: str, gate: AnycastEntry) -> None:
    """A gate has an edge of its name, and one BGP daemon to tell."""
    if name not in config.edges or config.edges[name].anycast is None:
        raise ConfigError(
            f"anycast.{name} announces edges.{name}.anycast, and the configuration has no such address"
        )
    if gate.bird is None:
        try:
            ipaddress.ip_network(gate.prefix)
        except ValueError as error:
            raise ConfigError(
                f"anycast.{name}.prefix = {gate.prefix!r}: {error}. ExaBGP announces it; with BIRD set "
                f"anycast.{name}.bird, its control socket, instead."
            ) from error


def _check_device(where: str, node: NodeEntry) -> None:
    try:
        parse_device(node.device)
    except ValueError as error:
        raise ConfigError(f"{where}.device = {node.device!r}: {error}") from error
    if node.spares and node.device == CPU:
        raise ConfigError(
            f"{where}.num_spares = {node.spares}: spares wait with a GPU's context up, and the CPU has none. "
            'Remove it, or set device = "cuda:0".'
        )
    if node.spares > MAX_SPARES:
        raise ConfigError(f"{where}.num_spares = {node.spares}: at most {MAX_SPARES}; each takes GPU memory")


def _check_stores(config: Config) -> None:
    urls = [region.store for region in config.regions.values()]
    for name, region in config.regions.items():
        if urls.count(region.store) > 1:
            raise ConfigError(
                f"regions.{name}.store = {region.store!r} is another region's too; each needs its own"
            )
    for name, edge in config.edges.items():
        behind = (config.home, edge.s3_region or config.home)
        if edge.s3 is not None and any(has_foreign_store(config, region) for region in behind):
            raise ConfigError(
                f"edges.{name}.s3 passes signed requests on to the embedded store, and the home region (or s3_region) "
                "has another one. Remove it: users reach that S3 at its own address."
            )


def has_foreign_store(config: Config, region: str) -> bool:
    """True if a region's store is somebody else's; a name that is no region has none."""
    entry = config.regions.get(region)
    return entry is not None and entry.store_credentials is not None


def _entries(
    kind: type[T], tree: Mapping[str, Any], section: str, base: Path, above: str = ""
) -> Mapping[str, T]:
    table = _table(tree, section) if section in tree else {}
    return MappingProxyType(
        {name: _entry(kind, table[name], f"{above}{section}.{name}", base) for name in table}
    )


def _engines(tree: Mapping[str, Any], base: Path) -> Mapping[str, Definition]:
    """The external engines that models may name. Without the section there is none."""
    found = {}
    for name, entry in _entries(EngineEntry, tree, "engines", base).items():
        try:
            found[name] = defined(name, entry)
        except DefinitionError as error:
            raise ConfigError(f"[engines.{name}]: {error}") from error
    return MappingProxyType(found)


def _dns(tree: Mapping[str, Any], base: Path) -> DnsEntry | None:
    """The zone that this fleet serves itself. Without the section there is none."""
    if "dns" not in tree:
        return None
    table = _table(tree, "dns")
    own = {key: value for key, value in table.items() if key not in {"pops", "servers"}}
    entry = replace(
        _entry(DnsEntry, own, "dns", base),
        pops=_entries(PopEntry, table, "pops", base, "dns."),
        servers=_entries(ServerEntry, table, "servers", base, "dns."),
    )
    try:
        check(entry)
    except DnsError as error:
        raise ConfigError(f"[dns]: {error}") from error
    return entry


def _acme(tree: Mapping[str, Any], base: Path) -> AcmeEntry | None:
    """How this fleet gets its certificates. Without the section it is given them as files."""
    if "acme" not in tree:
        return None
    table = _table(tree, "acme")
    own = {key: value for key, value in table.items() if key != "orders"}
    entry = replace(
        _entry(AcmeEntry, own, "acme", base), orders=_entries(OrderEntry, table, "orders", base, "acme.")
    )
    try:
        check_acme(entry)
    except AcmePartError as error:
        raise ConfigError(f"[acme]: {error}") from error
    if "dns" not in tree:
        raise ConfigError(
            "[acme] proves names in our own zone, and there is no [dns]; docs/edge.md has an example"
        )
    return entry


def _entry(kind: type[T], raw: object, where: str, base: Path) -> T:
    if not isinstance(raw, dict):
        raise ConfigError(f"{where} must be a table")
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    _known(raw, tuple(known), where)
    values: dict[str, Any] = {}
    for name, spec in known.items():
        if name in raw:
            values[name] = _convert(raw[name], str(spec.type), f"{where}.{name}", base)
        elif spec.default is MISSING and spec.default_factory is MISSING:
            raise ConfigError(f"{where} lacks `{name}`")
    return kind(**values)


def _convert(value: object, kind: str, where: str, base: Path) -> object:
    convert = _CONVERTERS[_type_name(kind)]
    try:
        return convert(value, base)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where} = {value!r}: {error}") from error


def _type_name(annotation: str) -> str:
    name = annotation.removeprefix("<class '").removesuffix("'>").replace(" | None", "")
    return name.split("[", 1)[0].rsplit(".", 1)[-1]


def _as_str(value: object, _base: Path) -> str:
    if not isinstance(value, str):
        raise TypeError("must be a string")
    return value


def _as_path(value: object, base: Path) -> Path:
    return base / _as_str(value, base)


def _as_bool(value: object, _base: Path) -> bool:
    if not isinstance(value, bool):
        raise TypeError("must be true or false")
    return value


def _as_int(value: object, _base: Path) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError("must be a whole number, 0 or more")
    return value


def _as_float(value: object, _base: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise TypeError("must be a number, 0 or more")
    return float(value)


def _as_tuple(value: object, base: Path) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError("must be a list of strings")
    return tuple(_as_str(item, base) for item in value)


def _as_mapping(value: object, base: Path) -> Mapping[str, str]:
    if not isinstance(value, dict):
        raise TypeError("must be a table of strings")
    return MappingProxyType({str(k): _as_str(v, base) for k, v in value.items()})


def _as_patience(value: object, _base: Path) -> PatienceTable:
    """Its numbers are the edge's own, its tables a model's or a path's, which have the edge's where they lack one."""
    if not isinstance(value, dict):
        raise TypeError("must be a table")
    own = {name: _as_seconds(name, each) for name, each in value.items() if not isinstance(each, dict)}
    special = {
        name: own | {phase: _as_seconds(phase, each) for phase, each in table.items()}
        for name, table in value.items()
        if isinstance(table, dict)
    }
    if any("/" not in name for name in special):
        raise ValueError("its tables are named after a model (org/name) or a path (/v1/...)")
    return MappingProxyType({"": own, **special})


def _as_seconds(name: str, value: object) -> float:
    if name not in PHASES:
        raise ValueError(f"{name!r} is none of {', '.join(PHASES)}")
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise TypeError(f"{name} must be a number of seconds above 0")
    return float(value)


_CONVERTERS: Mapping[str, Callable[[object, Path], object]] = MappingProxyType(
    {
        "str": _as_str,
        "Path": _as_path,
        "bool": _as_bool,
        "int": _as_int,
        "float": _as_float,
        "tuple": _as_tuple,
        "Mapping": _as_mapping,
        "PatienceTable": _as_patience,
    }
)


def _known(table: Mapping[str, Any], names: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            hint = f" Did you mean `{near[0]}`?" if near else f" Known keys: {', '.join(names)}."
            raise ConfigError(f"unknown key `{where + '.' if where else ''}{key}`.{hint}")


def _table(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = tree.get(name)
    if not isinstance(table, dict):
        raise ConfigError(f"the section [{name}] is missing or is not a table")
    return table


def _need(table: Mapping[str, Any], name: str, kind: type[T], where: str) -> T:
    value = table.get(name)
    if not isinstance(value, kind):
        raise ConfigError(f"{where}.{name} must be given as {kind.__name__}")
    return value


def _number(table: Mapping[str, Any], name: str, default: float, where: str) -> float:
    value = table.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise ConfigError(f"{where}.{name} = {value!r} must be a number, 0 or more")
    return float(value)
