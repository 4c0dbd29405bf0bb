"""What must hold between the tables of one file: names that lead somewhere, one store a region, one daemon a gate."""

import ipaddress

from deploy.config.document import Config, figures, has_foreign_store
from deploy.config.entries import AnycastEntry, NodeEntry
from deploy.faults import ConfigError
from inference.devices import CPU, MAX_SPARES, parse_device
from wire.address import split_address

MAX_WORKERS = 64  # each follows every region's rows and keeps connections of its own to every region


def check(config: Config) -> None:
    """Raises ConfigError: the first thing that does not hold, with the key to change."""
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
    for key, address in figures(config).items():
        _check_address(f"{key}.metrics", address)
    _check_edges(config)
    for name, gate in config.anycast.items():
        _check_anycast(config, name, gate)


def _check_address(where: str, address: str) -> None:
    try:
        split_address(address)
    except ValueError as error:
        raise ConfigError(f'{where} = {address!r} is no "host:port", such as "127.0.0.1:9464"') from error


def _check_edges(config: Config) -> None:
    for name, edge in config.edges.items():
        for region in (*edge.pins, *edge.via, *([edge.s3_region] if edge.s3_region else [])):
            if region not in config.regions:
                raise ConfigError(f"edges.{name} names region {region!r}, which is not one of [regions]")
        if not 1 <= edge.workers <= MAX_WORKERS:
            raise ConfigError(
                f"edges.{name}.workers = {edge.workers}: from 1 to {MAX_WORKERS}, one for a core"
            )


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
