"""The roles of a point of presence, made from the one configuration: edge, anycast gate, name server, certificates."""

import socket
from dataclasses import replace
from typing import TYPE_CHECKING

from deploy.config.dns import feeds, listen_addresses, zone_settings
from deploy.config.document import Config, pick
from deploy.config.entries import EdgeEntry
from deploy.config.tracing import tracing_of
from deploy.faults import ConfigError
from deploy.roles.role import Runner, hops_of, renewing, scrape_of
from deploy.trust import secrets
from deploy.trust.hops import Hops
from wire.address import split_address

if TYPE_CHECKING:
    from edge.crew.place import Place
    from edge.dns.voice import VoiceSettings
    from edge.settings import EdgeSettings


def num_workers(config: Config, name: str | None) -> int:
    """Processes of an edge. Raises ConfigError: there is none of that name."""
    return pick(config.edges, name, "edge")[1].workers


def edge_sockets(config: Config, name: str | None) -> tuple[list[dict[str, socket.socket]], int, float]:
    """For each worker its listeners, by name; the edge's port; how long a drain may take. Raises OSError."""
    from edge.crew.place import bind  # noqa: PLC0415
    from edge.listeners import ADMIN, addresses  # noqa: PLC0415

    edge, entry = pick(config.edges, name, "edge")
    settings = _edge_settings(config, edge, entry, None)
    found: list[dict[str, socket.socket]] = [{} for _ in range(entry.workers)]
    for listener, address in addresses(settings).items():
        socks = bind(*address, 1 if listener == ADMIN else entry.workers)
        for own, sock in zip(found, socks, strict=False):  # operators are served by the first alone
            own[listener] = sock
    return found, next(iter(found[0].values())).getsockname()[1], settings.drain_s


def edge_worker(config: Config, name: str | None, place: "Place | None" = None) -> Runner:
    """An edge, or with `place` one process of it."""
    from edge.run import run  # noqa: PLC0415

    edge, entry = pick(config.edges, name, "edge")
    hops = hops_of(config, "edge", edge)
    settings = replace(_edge_settings(config, edge, entry, hops), place=place)
    return renewing(hops, lambda ready, stop: run(settings, ready, stop))


def _edge_settings(config: Config, edge: str, entry: EdgeEntry, hops: Hops | None) -> "EdgeSettings":
    from edge.relay.patience import Patience  # noqa: PLC0415
    from edge.settings import EdgeSettings  # noqa: PLC0415

    host, port = split_address(entry.listen)
    return EdgeSettings(
        name=edge,
        host=host,
        port=port,
        pins={region: split_address(address) for region, address in entry.pins.items()},
        s3=split_address(entry.s3) if entry.s3 else None,
        admin=split_address(entry.admin) if entry.admin else None,
        cert=entry.cert,
        key=entry.key,
        certificates=entry.certificates,
        hop_tls=hops.client if hops else None,
        regions={r: entry.via.get(r, config.regions[r].gateway) for r in config.regions},
        public_keys={r: bytes.fromhex(config.regions[r].public_key) for r in config.regions},
        home=config.home,
        s3_upstream=config.regions[entry.s3_region or config.home].store.removeprefix("http://"),
        hop_token=secrets.hop_token(secrets.root_key(config.secrets)),
        state=entry.state,
        simulated_wan=config.wan_profile,
        patience=Patience(**entry.patience.get("", {})),
        special_patience={name: Patience(**each) for name, each in entry.patience.items() if name},
        anycast=split_address(entry.anycast) if entry.anycast else None,
        unicast=entry.unicast,
        voice=_voice(config, edge, entry),
        served_hosts=frozenset(entry.served_hosts),
        scrape=scrape_of(config, entry.metrics),
        tracing=tracing_of(config),
        others=frozenset(config.edges) - {edge},
    )


def anycast(config: Config, name: str | None) -> Runner:
    """The gate of a POP."""
    from edge.anycast.run import AnycastSettings, run  # noqa: PLC0415

    pop, entry = pick(config.anycast, name, "anycast")
    edge = config.edges[pop]
    hops = hops_of(config, "anycast", pop)
    settings = AnycastSettings(
        listener=split_address(edge.listen),
        ca=entry.ca,
        server_name=entry.server_name,
        regions={r: split_address(edge.via.get(r, config.regions[r].gateway)) for r in config.regions},
        hop_tls=hops.client if hops else None,
        drain=entry.drain,
        bird=entry.bird,
        tie=entry.tie,
        prefix=entry.prefix,
        drain_s=entry.drain_s,
        name=pop,
        scrape=scrape_of(config, entry.metrics),
    )
    return renewing(hops, lambda ready, stop: run(settings, ready, stop))


def acme(config: Config, _name: str | None) -> Runner:
    """What gets certificates. Raises ConfigError."""
    from edge.acme.run import AcmeSettings, run  # noqa: PLC0415

    if config.acme is None or config.dns is None:
        raise ConfigError("there is no [acme] in the configuration; docs/how-to/names.md has an example")
    zone, servers = config.dns, config.dns.servers
    settings = AcmeSettings(
        directory=config.acme.directory,
        contact=config.acme.contact,
        agreed=config.acme.agree_to_terms,
        ca=config.acme.ca,
        state=config.acme.state,
        certificates=config.acme.certificates,
        orders={name: order.domains for name, order in config.acme.orders.items()},
        zone=zone.zone,
        feeds=feeds(zone),
        servers=tuple(listen_addresses(name, each)[0] for name, each in servers.items() if each.published),
        key=secrets.dns_key(secrets.root_key(config.secrets)),
    )
    return lambda ready, stop: run(settings, ready, stop)


def _voice(config: Config, edge: str, entry: EdgeEntry) -> "VoiceSettings | None":
    """How an edge that is a POP of the zone tells the name servers how it is."""
    from edge.dns.voice import VoiceSettings  # noqa: PLC0415

    if config.dns is None or edge not in config.dns.pops:
        return None
    key = secrets.dns_key(secrets.root_key(config.secrets))
    gate = config.anycast.get(edge)
    drain = entry.state / "drain" if gate is None else gate.drain
    return VoiceSettings(edge, feeds(config.dns), key, drain)


def dns(config: Config, name: str | None) -> Runner:
    """A name server of the zone. Raises ConfigError."""
    from edge.dns.run import DnsSettings, run  # noqa: PLC0415

    if config.dns is None:
        raise ConfigError("there is no [dns] in the configuration; docs/how-to/names.md has an example")
    server, entry = pick(config.dns.servers, name, "dns")
    settings = DnsSettings(
        zone=zone_settings(config.dns, serial=int(config.path.stat().st_mtime)),
        listen=listen_addresses(server, entry),
        feed=split_address(entry.feed) if entry.feed else None,
        answers_per_s=config.dns.answers_per_s,
        name=server,
        scrape=scrape_of(config, entry.metrics),
        key=secrets.dns_key(secrets.root_key(config.secrets)),
    )
    return lambda ready, stop: run(settings, ready, stop)
