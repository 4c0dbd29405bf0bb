"""What one edge is: where it listens, whom it knows, and within which bounds it works."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from edge.admission.rate import BURST, RATE_PER_S
from edge.admission.room import MAX_BYTES, MAX_REQUESTS
from edge.relay.patience import Patience

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping
    from pathlib import Path

    from edge.crew.place import Place
    from edge.dns.voice import VoiceSettings
    from wire.scrape import Scrape
    from wire.trace.export import Tracing

PATIENCE: Final = Patience()
DRAIN_S: Final = 20.0  # running answers may end; most streams are shorter


@dataclass(frozen=True, slots=True)
class EdgeSettings:
    """One edge.

    `regions` are the gateways by name, `pins` the extra listeners bound to one region each, `admin`
    the one for operators; `public_keys` are raw
    Ed25519 keys; `s3_upstream` is the home store's address. `state` is a folder for the rows. `cert` and `key` are the
    default certificate, `certificates` a folder of others; `hop_tls` is what gateways are reached with, None: plain.
    `plain` listeners are for a machine on which something else ends TLS before the edge. `anycast` is a
    listener on the address that several POPs announce; its answers name `unicast`, this POP's own name and port.
    `special_patience` is by model (`org/name`) or path (`/v1/...`).
    `voice` is what name servers are told with. `place` is set in an edge of several processes: then this is one.
    With `served_hosts` users' listeners answer for these names and for the address that they listen on, and no other;
    without them for what the certificates cover and for addresses; with "*" among them for any (`edge/hosts.py`).
    `scrape` is where the edge's figures can be read, beside the operators' listener, `tracing` where traces go.
    `others` are the fleet's other edges, by name: with any, they hear of each other by way of the regions.
    """

    name: str
    host: str
    port: int
    pins: Mapping[str, tuple[str, int]]
    s3: tuple[str, int] | None
    admin: tuple[str, int] | None
    cert: Path
    key: Path
    regions: Mapping[str, str]
    public_keys: Mapping[str, bytes]
    home: str
    s3_upstream: str
    hop_token: str = field(repr=False)
    state: Path
    certificates: Path | None = None
    hop_tls: ssl.SSLContext | None = None
    plain: bool = False
    voice: VoiceSettings | None = None
    simulated_wan: str | None = None
    anycast: tuple[str, int] | None = None
    unicast: str | None = None
    rate_per_s: float = RATE_PER_S
    burst: float = BURST
    drain_s: float = DRAIN_S
    patience: Patience = PATIENCE
    special_patience: Mapping[str, Patience] = field(default_factory=lambda: MappingProxyType({}))
    max_held_requests: int = MAX_REQUESTS
    max_held_bytes: int = MAX_BYTES
    place: Place | None = None
    served_hosts: frozenset[str] = frozenset()
    scrape: Scrape | None = None
    tracing: Tracing | None = None
    others: frozenset[str] = frozenset()

    @property
    def size(self) -> int:
        """Processes that this edge is."""
        return 1 if self.place is None else self.place.size

    @property
    def is_first(self) -> bool:
        """Whether this process does what an edge does once."""
        return self.place is None or self.place.is_first

    def part(self, whole: int) -> int:
        """Of a bound that processes divide."""
        return whole if self.place is None else self.place.share(whole)
