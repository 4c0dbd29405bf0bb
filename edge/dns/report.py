"""What an edge tells the name servers each second: that it lives, whether it drains, and how far its clients are; pure.

    draining u8 | entries: length of client u8 | client | round trip u32, us

No news is news too: a POP that is silent for SILENT_S is not answered with any more.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from edge.dns.client import Client

PERIOD_S: Final = 1.0
SILENT_S: Final = 3.5  # three reports lost in a row
MAX_ENTRIES: Final = 80  # of one datagram: 13 bytes for an IPv6 client
MAX_PER_PERIOD: Final = 8 * MAX_ENTRIES  # the rest of a busy second is not told: a client comes again
_RTT: Final = struct.Struct("!I")
_CLIENT_BYTES: Final = (4, 8)


class Report(NamedTuple):
    """`rtt_us` by client."""

    draining: bool
    rtt_us: Sequence[tuple[Client, int]] = ()


def encode(report: Report) -> bytes:
    """The payload; at most MAX_ENTRIES entries."""
    entries = (bytes([len(client)]) + client + _RTT.pack(rtt) for client, rtt in report.rtt_us)
    return bytes([report.draining]) + b"".join(entries)


def decode(payload: bytes) -> Report:
    """Raises ValueError: it is not one."""
    if not payload or payload[0] > 1:
        raise ValueError("not a report")
    entries = []
    at = 1
    while at < len(payload):
        end = at + 1 + payload[at]
        client = payload[at + 1 : end]
        if payload[at] not in _CLIENT_BYTES or end + _RTT.size > len(payload):
            raise ValueError("a cut report")
        entries.append((client, _RTT.unpack_from(payload, end)[0]))
        at = end + _RTT.size
    return Report(bool(payload[0]), entries)


class Observed:
    """The round trips since the last report; the shortest of each client, which queues have lengthened least."""

    def __init__(self) -> None:
        self._rtt_us: dict[Client, int] = {}

    def note(self, client: Client, rtt_us: int) -> None:
        """One connection's; what does not fit in a period is left out."""
        known = self._rtt_us.get(client)
        if known is not None:
            self._rtt_us[client] = min(known, rtt_us)
        elif len(self._rtt_us) < MAX_PER_PERIOD:
            self._rtt_us[client] = rtt_us

    def reports(self, *, draining: bool) -> list[Report]:
        """At least one; what was noted is forgotten."""
        taken: Mapping[Client, int] = self._rtt_us
        self._rtt_us = {}
        entries = list(taken.items())
        starts = range(0, max(1, len(entries)), MAX_ENTRIES)
        return [Report(draining, entries[at : at + MAX_ENTRIES]) for at in starts]
