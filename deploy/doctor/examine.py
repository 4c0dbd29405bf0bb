"""`nearfield doctor`: every finding, in the order in which a start needs them, each with its fix beside it."""

from collections.abc import Callable, Iterator
from pathlib import Path

from deploy.config.document import Config
from deploy.doctor import fleet, machine
from deploy.doctor.finding import Finding
from deploy.faults import ConfigError

OF_MACHINE: tuple[Callable[[Path], Iterator[Finding]], ...] = (
    machine.python,
    machine.packages,
    machine.disk,
    machine.resolver,
    machine.descriptors,
    machine.locked_memory,
    machine.clock,
    machine.gpu,
    fleet.configuration,
)
OF_FLEET: tuple[Callable[[Config, Path], Iterator[Finding]], ...] = (
    fleet.names,
    fleet.ports,
    fleet.devices,
    fleet.stores,
    fleet.engines,
    fleet.nodes,
)


def examine(state: Path) -> list[Finding]:
    """Look over the machine, the fleet of that folder if there is one, and whether it runs."""
    found = [finding for check in OF_MACHINE for finding in check(state)]
    try:
        config = fleet.config_of(state)
    except ConfigError:
        config = None  # said already, by `fleet.configuration`
    if config is not None:
        found += [finding for check in OF_FLEET for finding in check(config, state)]
    return [*found, *fleet.platform(state)]
