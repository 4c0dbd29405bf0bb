"""The `[dns]` part of the configuration: the zone, its name servers, the POPs and who is near them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from types import MappingProxyType

from edge.dns.client import Address, Network
from edge.dns.settings import Pop, ZoneSettings
from wire.address import split_address

MIN_TTL_S = 1
MAX_TTL_S = 300  # how long a POP that is gone may still be sent clients


class DnsError(ValueError):
    """The part cannot be used; the message names the key, the cause and the next step."""


@dataclass(frozen=True, slots=True)
class PopEntry:
    """One point of presence as clients reach it, by the name of its edge.

    `near` are networks (at most /24 and /56) that should land here until round trips were measured; `then` names the
    POPs that take over, in this order.
    """

    addresses: tuple[str, ...]
    port: int = 443
    near: tuple[str, ...] = ()
    then: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServerEntry:
    """One name server: `<its name>.<zone>` in the zone's NS records, unless `published` is false.

    `listen` are addresses for UDP and TCP, each named (a wildcard would answer from another one); `addresses` are what
    the world knows, those of `listen` if not given. `feed` is a private address for what edges and ACME say.
    """

    listen: tuple[str, ...]
    feed: str | None = None
    addresses: tuple[str, ...] = ()
    published: bool = True
    metrics: str | None = None


@dataclass(frozen=True, slots=True)
class DnsEntry:
    """The zone. `anycast` are the addresses of the service's name; without them it leads to the nearest POP."""

    zone: str
    pops: Mapping[str, PopEntry] = field(default_factory=lambda: MappingProxyType({}))
    servers: Mapping[str, ServerEntry] = field(default_factory=lambda: MappingProxyType({}))
    hostmaster: str = "hostmaster"
    service: str = "api"
    stream: str = "stream"
    anycast: tuple[str, ...] = ()
    ttl_s: int = 20
    records: tuple[str, ...] = ()
    answers_per_s: int = 200


def check(entry: DnsEntry) -> None:
    """Make all of it once. Raises DnsError."""
    from edge.dns.rtt import RttTable  # noqa: PLC0415 - only a fleet with a zone loads dnspython
    from edge.dns.steer import Steering  # noqa: PLC0415
    from edge.dns.zone import Zone  # noqa: PLC0415

    settings = zone_settings(entry, serial=1)
    for name, server in entry.servers.items():
        listen_addresses(name, server)
    feeds(entry)
    try:
        Zone(settings)
        Steering(settings.pops, RttTable(), settings.ttl_s)
    except ValueError as error:
        raise DnsError(str(error)) from error


def zone_settings(entry: DnsEntry, serial: int) -> ZoneSettings:
    """What the name server is made of. Raises DnsError."""
    if not MIN_TTL_S <= entry.ttl_s <= MAX_TTL_S:
        raise DnsError(
            f"ttl_s = {entry.ttl_s}: {MIN_TTL_S} to {MAX_TTL_S}, as long as a dead POP may be sent clients"
        )
    if not entry.pops:
        raise DnsError("there is no [dns.pops.NAME]; name at least one POP with its addresses")
    return ZoneSettings(
        apex=entry.zone,
        pops=tuple(_pop(name, pop) for name, pop in entry.pops.items()),
        nameservers={
            name: _public(name, server) for name, server in entry.servers.items() if server.published
        },
        hostmaster=entry.hostmaster,
        service=entry.service,
        stream=entry.stream,
        anycast=_addresses("anycast", entry.anycast),
        ttl_s=entry.ttl_s,
        serial=serial,
        records=entry.records,
    )


def listen_addresses(name: str, server: ServerEntry) -> tuple[tuple[str, int], ...]:
    """Where a name server listens. Raises DnsError."""
    found = []
    for text in server.listen:
        host, port = socket_address(f"servers.{name}.listen", text)
        if ip_address(host).is_unspecified:
            raise DnsError(
                f"servers.{name}.listen = {text!r}: name each address; a wildcard answers from another one"
            )
        found.append((host, port))
    if not found:
        raise DnsError(f"servers.{name}.listen names no address")
    return tuple(found)


def feeds(entry: DnsEntry) -> tuple[tuple[str, int], ...]:
    """Where each name server listens for what edges and ACME say. Raises DnsError."""
    named = ((name, server.feed) for name, server in entry.servers.items())
    return tuple(socket_address(f"servers.{name}.feed", feed) for name, feed in named if feed is not None)


def socket_address(where: str, text: str) -> tuple[str, int]:
    """A literal address and a port. Raises DnsError."""
    try:
        host, port = split_address(text)
        ip_address(host)
    except ValueError as error:
        raise DnsError(f"{where} = {text!r}: {error}; write ADDRESS:PORT") from error
    return host, port


def _pop(name: str, entry: PopEntry) -> Pop:
    where = f"pops.{name}"
    if not entry.addresses:
        raise DnsError(f"{where}.addresses is empty; clients need one")
    if not 0 < entry.port < 65536:
        raise DnsError(f"{where}.port = {entry.port} is no port")
    return Pop(name, _addresses(where, entry.addresses), entry.port, _networks(where, entry.near), entry.then)


def _public(name: str, server: ServerEntry) -> tuple[Address, ...]:
    if server.addresses:
        return _addresses(f"servers.{name}.addresses", server.addresses)
    return tuple(ip_address(host) for host, _ in listen_addresses(name, server))


def _addresses(where: str, texts: tuple[str, ...]) -> tuple[Address, ...]:
    try:
        return tuple(ip_address(text) for text in texts)
    except ValueError as error:
        raise DnsError(f"{where}: {error}") from error


def _networks(where: str, texts: tuple[str, ...]) -> tuple[Network, ...]:
    try:
        return tuple(ip_network(text) for text in texts)
    except ValueError as error:
        raise DnsError(f"{where}.near: {error}") from error
