"""`nearfield doctor`: every finding, in the order in which a start needs them, each with its fix beside it."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from deploy.config.document import Config
from deploy.doctor import fleet, machine
from deploy.doctor.finding import Finding
from deploy.faults import ConfigError

OF_MACHINE: Mapping[str, Callable[[Path], Iterator[Finding]]] = {
    "Python": machine.python,
    "its packages": machine.packages,
    "the disk's room and speed": machine.disk,
    "localhost": machine.resolver,
    "how many files may be open": machine.descriptors,
    "how much memory may be locked": machine.locked_memory,
    "the clock": machine.clock,
    "GPUs": machine.gpu,
    "the configuration": fleet.configuration,
}
OF_FLEET: Mapping[str, Callable[[Config, Path], Iterator[Finding]]] = {
    "the names of its hosts": fleet.names,
    "its ports": fleet.ports,
    "the GPUs of its nodes": fleet.devices,
    "its stores, by what each can do": fleet.stores,
    "the programs of its engines": fleet.engines,
    "its nodes": fleet.nodes,
}


def examine(state: Path, turn_to: Callable[[str], None] = lambda _what: None) -> list[Finding]:
    """Look over the machine, the fleet of that folder if there is one, and whether it runs.

    `turn_to` hears what is looked at next.
    """
    found: list[Finding] = []
    for what, of_machine in OF_MACHINE.items():
        turn_to(what)
        found += of_machine(state)
    if (config := _config(state)) is not None:
        for what, of_fleet in OF_FLEET.items():
            turn_to(what)
            found += of_fleet(config, state)
    turn_to("whether it runs, and its regions")
    return [*found, *fleet.platform(state)]


def _config(state: Path) -> Config | None:
    """One that is not well is a finding of `fleet.configuration`."""
    try:
        return fleet.config_of(state)
    except ConfigError:
        return None
