"""The `[acme]` part of the configuration: from whom certificates come, and for which names."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

MAX_DOMAINS = 100  # of one certificate, Let's Encrypt's bound
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_DOMAIN = re.compile(r"(\*\.)?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9-]{2,63}")


class AcmePartError(ValueError):
    """The part cannot be used; the message names the key, the cause and the next step."""


@dataclass(frozen=True, slots=True)
class OrderEntry:
    """One certificate: the names it is for, wildcards among them."""

    domains: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AcmeEntry:
    """One process of the fleet (`nearfield run acme`) gets these certificates and renews them.

    `directory` is the CA's; `agree_to_terms` says that you agree to its terms of service. `certificates` is the folder
    that edges of this host name too; `ca` a file of certificates to trust, for a CA of your own.
    """

    directory: str
    state: Path
    certificates: Path
    contact: tuple[str, ...] = ()
    agree_to_terms: bool = False
    ca: Path | None = None
    orders: Mapping[str, OrderEntry] = field(default_factory=lambda: MappingProxyType({}))


def check(entry: AcmeEntry) -> None:
    """Raises AcmePartError."""
    if not entry.directory.startswith("https://"):
        raise AcmePartError(f"directory = {entry.directory!r} must be an https URL")
    if not entry.agree_to_terms:
        raise AcmePartError("set agree_to_terms = true once you have read the CA's terms of service")
    if not entry.orders:
        raise AcmePartError("there is no [acme.orders.NAME]; name at least one certificate with its domains")
    for name, order in entry.orders.items():
        _check_order(name, order)


def _check_order(name: str, order: OrderEntry) -> None:
    if not _NAME.fullmatch(name):
        raise AcmePartError(f"orders.{name}: a name becomes a folder: letters, digits, `.`, `_` and `-`")
    if not 0 < len(order.domains) <= MAX_DOMAINS:
        raise AcmePartError(f"orders.{name}.domains: 1 to {MAX_DOMAINS}")
    for domain in order.domains:
        if len(domain) > 253 or not _DOMAIN.fullmatch(domain):
            raise AcmePartError(f"orders.{name}: {domain!r} is no domain (lower case, `*.` only in front)")
