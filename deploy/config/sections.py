"""The sections with rules of their own beside their keys' types: external engines, the zone, certificates."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from deploy.config.acme import AcmeEntry, AcmePartError, OrderEntry
from deploy.config.acme import check as check_acme
from deploy.config.convert import entries, entry, table
from deploy.config.dns import DnsEntry, DnsError, PopEntry, ServerEntry
from deploy.config.dns import check as check_dns
from deploy.config.entries import TracingEntry
from deploy.config.tracing import collector
from deploy.faults import ConfigError
from inference.outside.definition import Definition, DefinitionError, EngineEntry, defined


def engines(tree: Mapping[str, Any], base: Path) -> Mapping[str, Definition]:
    """The external engines that models may name. Without the section there is none."""
    found = {}
    for name, written in entries(EngineEntry, tree, "engines", base).items():
        try:
            found[name] = defined(name, written)
        except DefinitionError as error:
            raise ConfigError(f"[engines.{name}]: {error}") from error
    return MappingProxyType(found)


def tracing(tree: Mapping[str, Any], base: Path) -> TracingEntry | None:
    """Where traces go. Without the section nothing is recorded."""
    if "tracing" not in tree:
        return None
    made = entry(TracingEntry, table(tree, "tracing"), "tracing", base)
    try:
        collector(made.endpoint)
    except ValueError as error:
        raise ConfigError(f"tracing.endpoint = {made.endpoint!r}: {error}") from error
    if made.sample > 1:
        raise ConfigError(f"tracing.sample = {made.sample}: a share of requests, from 0 to 1")
    return made


def dns(tree: Mapping[str, Any], base: Path) -> DnsEntry | None:
    """The zone that this fleet serves itself. Without the section there is none."""
    if "dns" not in tree:
        return None
    part = table(tree, "dns")
    own = {key: value for key, value in part.items() if key not in {"pops", "servers"}}
    made = replace(
        entry(DnsEntry, own, "dns", base),
        pops=entries(PopEntry, part, "pops", base, "dns."),
        servers=entries(ServerEntry, part, "servers", base, "dns."),
    )
    try:
        check_dns(made)
    except DnsError as error:
        raise ConfigError(f"[dns]: {error}") from error
    return made


def acme(tree: Mapping[str, Any], base: Path) -> AcmeEntry | None:
    """How this fleet gets its certificates. Without the section it is given them as files."""
    if "acme" not in tree:
        return None
    part = table(tree, "acme")
    own = {key: value for key, value in part.items() if key != "orders"}
    made = replace(
        entry(AcmeEntry, own, "acme", base), orders=entries(OrderEntry, part, "orders", base, "acme.")
    )
    try:
        check_acme(made)
    except AcmePartError as error:
        raise ConfigError(f"[acme]: {error}") from error
    if "dns" not in tree:
        raise ConfigError(
            "[acme] proves names in our own zone, and there is no [dns]; docs/how-to/names.md has an example"
        )
    return made
