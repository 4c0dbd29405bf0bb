"""Where an edge listens, within which bounds, and what an answer on the anycast address says of the POP's own one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from wire.http.limits import Limits

if TYPE_CHECKING:
    from edge.settings import EdgeSettings
    from wire.http.http1 import Headers

LIMITS: Final = Limits(
    slash_prefixes=("/v1/models/",),
    write_buffer_bytes=64
    * 1024,  # of records; what a slow reader has not asked for yet waits once, as it came
    total_s=900.0,  # a body at its slowest, a request's own deadline of 600 s, and room
)
ALT_SVC_S: Final = 60  # a client comes back to the anycast address this often, to hear of a nearer POP
MAIN, ANYCAST, ADMIN, S3 = "main", "anycast", "admin", "s3"  # listeners


def alt_svc(unicast: str | None) -> Headers:
    """What an answer on the anycast address says of the POP's own one (RFC 7838): a drain moves the first only."""
    if unicast is None:
        return ()
    return (("alt-svc", f'http%2F1.1="{unicast}"; ma={ALT_SVC_S}'),)


def addresses(settings: EdgeSettings) -> dict[str, tuple[str, int]]:
    """Every address that the edge listens on, by the listener's name, the main one first."""
    found = {MAIN: (settings.host, settings.port)}
    found |= {ANYCAST: settings.anycast} if settings.anycast else {}
    found |= {f"pin {region}": address for region, address in settings.pins.items()}
    found |= {ADMIN: settings.admin} if settings.admin else {}
    return found | ({S3: settings.s3} if settings.s3 else {})


def part(limits: Limits, settings: EdgeSettings) -> Limits:
    """The kernel spreads connections evenly over an edge's processes, so each takes its part of the caps."""
    return replace(
        limits,
        max_connections=settings.part(limits.max_connections),
        max_per_address=settings.part(limits.max_per_address),
    )
