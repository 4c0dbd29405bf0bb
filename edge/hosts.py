"""Which Host a users' listener answers for, where its operator lists none: what its certificates prove to be its own.

A name that no certificate covers is no client's of this edge: a page of somebody else's that had its name point here
(DNS rebinding), or a mistake. An address proves nothing and harms nobody: behind NAT an edge does not know its own, and
health checks say one.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Container

    from edge.certificates import Certificates

ANY: Final = (
    "*"  # in a list of hosts: every well-formed one, as behind a proxy that sends customers' names on
)


class Covered:
    """A container of host names: those that certificates cover now, the name it listens on, and addresses."""

    def __init__(self, certificates: Certificates, own: str) -> None:
        self._certificates = certificates
        self._own = own.lower()

    def __contains__(self, host: object) -> bool:
        """By name, lower case and without a port."""
        return isinstance(host, str) and (
            self._certificates.covers(host) or host == self._own or _is_address(host)
        )


def served(listed: Collection[str], certificates: Certificates | None, own: str) -> Container[str] | None:
    """The hosts of a listener on `own`; None: any well-formed one. Without `certificates` TLS ends before the edge."""
    if ANY in listed:
        return None
    if listed:
        return frozenset(name.lower() for name in (*listed, own))
    return None if certificates is None else Covered(certificates, own)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
