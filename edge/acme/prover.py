"""Tokens in our own zone: told to every name server, and asked back from each before the CA comes to look."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

import dns.asyncquery
import dns.exception
import dns.message
import dns.rdatatype

from edge.acme.faults import AcmeError
from edge.dns.challenge import LABEL, Challenge, encode
from edge.dns.sealed import Kind, Sealed, seal
from edge.dns.voice import send

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SENDER: Final = "acme"
KEEP_S: Final = 900
AGAIN_S: Final = 0.5
ASK_S: Final = 2.0
DEADLINE_S: Final = 30.0


class ZoneProver:
    """An `order.Prover`. A domain outside the zone is proven by its owner's alias to a name in it."""

    def __init__(
        self, zone: str, feeds: tuple[tuple[str, int], ...], servers: tuple[tuple[str, int], ...], key: bytes
    ) -> None:
        """`feeds` hear what is to be said, `servers` are then asked for it."""
        self._zone = zone.rstrip(".").lower()
        self._feeds = feeds
        self._servers = servers
        self._key = key
        self._failed: set[str] = set()

    def record(self, domain: str) -> str:
        """The name of the TXT record; for a domain that is not ours, what its own `_acme-challenge` must lead to."""
        domain = domain.removeprefix("*.").rstrip(".").lower()
        inside = domain == self._zone or domain.endswith(f".{self._zone}")
        return f"{LABEL}{domain}" if inside else f"{LABEL}{domain}.{self._zone}"

    async def show(self, values: Mapping[str, Sequence[str]]) -> None:
        """Tell, and ask back, until every server that answers says all of it. Raises AcmeError."""
        wanted = {self.record(domain): frozenset(texts) for domain, texts in values.items()}
        try:
            async with asyncio.timeout(DEADLINE_S):
                while True:
                    self._tell(wanted)
                    missing = await self._missing(wanted)
                    if not missing:
                        return
                    await asyncio.sleep(AGAIN_S)
        except TimeoutError as error:
            raise AcmeError(
                "dns",
                f"after {DEADLINE_S:.0f} s not every name server has {', '.join(wanted)}; are they running?",
            ) from error

    async def take_away(self, domains: Sequence[str]) -> None:
        """One message each; should it be lost, they run out."""
        self._tell({self.record(domain): frozenset() for domain in domains})

    def _tell(self, wanted: Mapping[str, frozenset[str]]) -> None:
        for name, texts in wanted.items():
            payload = encode(Challenge(name, tuple(sorted(texts)), KEEP_S))
            send(
                seal(Sealed(Kind.CHALLENGE, SENDER, payload), time.time_ns(), self._key),
                self._feeds,
                self._failed,
            )

    async def _missing(self, wanted: Mapping[str, frozenset[str]]) -> bool:
        """True while a server that answers does not say it, or none answers."""
        asked = [(name, server) for name in wanted for server in self._servers]
        told = await asyncio.gather(*(self._ask(name, server) for name, server in asked))
        known = [
            (said, wanted[name]) for (name, _), said in zip(asked, told, strict=True) if said is not None
        ]
        return len(known) < len(wanted) or any(not texts <= said for said, texts in known)

    async def _ask(self, name: str, server: tuple[str, int]) -> frozenset[str] | None:
        """What a server says; None if it says nothing."""
        query = dns.message.make_query(name, "TXT")
        host, port = server
        try:
            reply, _ = await dns.asyncquery.udp_with_fallback(query, host, ASK_S, port)
        except (dns.exception.DNSException, OSError):
            return None
        sets = [each for each in reply.answer if each.rdtype == dns.rdatatype.TXT]
        return frozenset(b"".join(rdata.strings).decode() for each in sets for rdata in each)
