"""Names of upstreams as addresses, and the last good ones while the name server is gone or says that there are none.

A record that was emptied by mistake, or a resolver that is down, takes nobody off the air who was reachable before
(AWS, us-east-1, 2025-10-19): what answered at the old address still does.
"""

import asyncio
import ipaddress
import logging
import socket
from typing import Final

FRESH_S: Final = 30.0  # as long as the records of most balancers live
MAX_ADDRESSES: Final = 8  # of one name; trying more would outlast every deadline

log = logging.getLogger("nearfield.wire")


async def lookup(host: str, port: int) -> list[str]:
    """The addresses of a name, as the system's resolver has them. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))[:MAX_ADDRESSES]


def is_address(host: str) -> bool:
    """Whether there is nothing to look up."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


class Name:
    """One name, asked for again after FRESH_S."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._known: list[str] = [host] if is_address(host) else []
        self._fresh_until = float("inf") if self._known else 0.0  # loop time

    async def addresses(self) -> list[str]:
        """At least one. Raises OSError if the name was never found."""
        now = asyncio.get_running_loop().time()
        if now < self._fresh_until:
            return self._known
        try:
            found = await lookup(self._host, self._port)
        except OSError as error:
            self._stale(error)
            found = []
        self._known = found or self._known
        self._fresh_until = now + FRESH_S if found else now + 1.0
        return self._known

    def doubt(self) -> None:
        """An address did not answer: the name may have moved, and is looked up again before the next connection."""
        if self._host not in self._known:
            self._fresh_until = 0.0

    def _stale(self, error: OSError) -> None:
        if not self._known:
            raise error
        log.warning("%s cannot be looked up (%s): its last addresses stay in use", self._host, error)
