"""What the operator says of a zone, as frozen values; no parser and no dnspython is loaded for it."""

from collections.abc import Mapping
from dataclasses import dataclass

from edge.dns.client import Address, Network


@dataclass(frozen=True, slots=True)
class Pop:
    """One point of presence. `near` are the networks it is meant for, `following` who stands in for it, by name."""

    name: str
    addresses: tuple[Address, ...]
    port: int = 443
    near: tuple[Network, ...] = ()
    following: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ZoneSettings:
    """The operator's part; `nameservers` are names with their addresses, `records` lines as in a zone file."""

    apex: str
    pops: tuple[Pop, ...]
    nameservers: Mapping[str, tuple[Address, ...]]
    hostmaster: str = "hostmaster"
    service: str = "api"
    stream: str = "stream"
    anycast: tuple[Address, ...] = ()
    ttl_s: int = 20
    serial: int = 1
    records: tuple[str, ...] = ()
