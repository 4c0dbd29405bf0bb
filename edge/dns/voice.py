"""An edge's voice to the name servers: that it lives, whether it drains, and how far away its clients are.

The kernel measures round trips on each connection (TCP_INFO); reading one costs 2 us a connection, nothing a request.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edge.dns.client import of_host
from edge.dns.report import PERIOD_S, Observed, encode
from edge.dns.sealed import Kind, Sealed, seal
from wire.tcpinfo import least_rtt_us

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger("nearfield.edge")


@dataclass(frozen=True, slots=True)
class VoiceSettings:
    """`servers` are the feeds of the name servers; while the file `drain` exists the POP drains."""

    pop: str
    servers: tuple[tuple[str, int], ...]
    key: bytes = field(repr=False)
    drain: Path
    period_s: float = PERIOD_S


class Voice:
    """`met` is told of each connection; `keep` speaks until it is cancelled."""

    def __init__(self, settings: VoiceSettings) -> None:
        self._settings = settings
        self._observed = Observed()
        self._sender = f"{settings.pop}/{os.getpid()}"
        self._stopping = False
        self._failed: set[str] = set()

    def met(self, transport: asyncio.Transport, host: str) -> None:
        """A client connected: note how far it is."""
        rtt_us = least_rtt_us(transport.get_extra_info("socket"))
        if rtt_us is not None:
            self._observed.note(of_host(host), rtt_us)

    async def keep(self) -> None:
        """Speak each period."""
        while True:
            self._speak()
            await asyncio.sleep(self._settings.period_s)

    def drain(self) -> None:
        """Say at once, and from now on, that this edge drains."""
        self._stopping = True
        self._speak()

    def _speak(self) -> None:
        draining = self._stopping or self._settings.drain.exists()
        for report in self._observed.reports(draining=draining):
            message = Sealed(Kind.REPORT, self._sender, encode(report))
            send(seal(message, time.time_ns(), self._settings.key), self._settings.servers, self._failed)


def send(datagram: bytes, servers: tuple[tuple[str, int], ...], failed: set[str]) -> None:
    """To each server; one that cannot be reached is said once (in `failed`) and does not keep the others waiting."""
    for host, port in servers:
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind) as sock:
            try:
                sock.sendto(datagram, (host, port))
            except OSError as error:
                if host not in failed:
                    log.warning("the name server at %s:%d cannot be told anything: %s", host, port, error)
                failed.add(host)
            else:
                failed.discard(host)
