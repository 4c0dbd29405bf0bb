"""One edge in several processes: what each is given. Each has sockets of its own for the same addresses (SO_REUSEPORT).

The process that forks them holds every socket too, so that a place in the kernel's queue outlives a process that dies,
and its successor takes who waits there.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edge.admission.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Place:
    """Process `index` of `size`. `sockets` are its listeners by name, bound; `folder` is where they speak to another.

    The first keeps what an edge has once: the operators' listener, the rows on disk, the reports.
    """

    index: int
    size: int
    sockets: Mapping[str, socket.socket]
    ledger: Ledger
    folder: Path

    @property
    def is_first(self) -> bool:
        """Whether this process does what one of them must do."""
        return self.index == 0

    def share(self, whole: int) -> int:
        """Its part of a bound that is divided, rounded up."""
        return -(-whole // self.size)


def bind(host: str, port: int, num: int) -> list[socket.socket]:
    """So many sockets at one address, not yet listening. Raises OSError, also if somebody else listens there."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, number, _, address = found[0]
    with socket.socket(
        family, kind, number
    ) as probe:  # with SO_REUSEPORT a stranger of our user would not be seen
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
    socks: list[socket.socket] = []
    try:
        for _ in range(num):
            sock = socket.socket(family, kind, number)
            socks.append(sock)
            for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
                sock.setsockopt(socket.SOL_SOCKET, option, 1)
            sock.bind(socks[0].getsockname() if len(socks) > 1 else address)
    except OSError:
        for sock in socks:
            sock.close()
        raise
    return socks
