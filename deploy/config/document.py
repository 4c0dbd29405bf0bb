"""The whole fleet as one frozen value, and what is asked of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from deploy.config.acme import AcmeEntry
from deploy.config.dns import DnsEntry
from deploy.config.entries import (
    AccessKeyEntry,
    AnycastEntry,
    EdgeEntry,
    NodeEntry,
    RegionEntry,
    StoreEntry,
    TracingEntry,
    WanLink,
    WebhookEntry,
)
from deploy.faults import ConfigError
from inference.outside.definition import Definition

T = TypeVar("T")


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
    tracing: TracingEntry | None = None


def listeners(config: Config) -> dict[str, str]:
    """Every address that this machine would listen on if it ran all roles, by the key that names it."""
    found = {f"stores.{name}.listen": entry.listen for name, entry in config.stores.items()}
    found |= {f"nodes.{name}.listen": entry.listen for name, entry in config.nodes.items()}
    found |= {f"regions.{name}.gateway": entry.gateway for name, entry in config.regions.items()}
    found |= {f"wan.{name}.listen": entry.listen for name, entry in config.wan.items()}
    found |= {f"{key}.metrics": address for key, address in figures(config).items()}
    for name, entry in config.edges.items():
        found[f"edges.{name}.listen"] = entry.listen
        found |= {f"edges.{name}.pins.{region}": address for region, address in entry.pins.items()}
        found |= {f"edges.{name}.s3": entry.s3} if entry.s3 else {}
        found |= {f"edges.{name}.anycast": entry.anycast} if entry.anycast else {}
        found |= {f"edges.{name}.admin": entry.admin} if entry.admin else {}
    return found


def figures(config: Config) -> dict[str, str]:
    """Where each role's figures can be read, by the key of its table; those that show none are left out."""
    tables: Mapping[str, Mapping[str, Any]] = {
        "stores": config.stores,
        "nodes": config.nodes,
        "regions": config.regions,
        "edges": config.edges,
        "anycast": config.anycast,
        "dns.servers": config.dns.servers if config.dns else {},
    }
    every = ((f"{section}.{name}", entry) for section, some in tables.items() for name, entry in some.items())
    return {key: entry.metrics for key, entry in every if entry.metrics}


def has_foreign_store(config: Config, region: str) -> bool:
    """True if a region's store is somebody else's; a name that is no region has none."""
    entry = config.regions.get(region)
    return entry is not None and entry.store_credentials is not None


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
