"""What this host's kernel knows of a connection (TCP_INFO): it answers for the way and the peer's kernel, no process.

One look costs about 1 us on a socket of Python's, 10 us on what uvloop says is one.
"""

from __future__ import annotations

import math
import socket
import struct
from typing import Final, NamedTuple

# state, retransmits, unacked, last_data_sent, last_data_recv, last_ack_recv of struct tcp_info
_SEEN: Final = struct.Struct("=BxB21xI16xI4xII")
_SYN_SENT: Final = 2
_MIN_RTT_AT: Final = 148  # us; since Linux 4.6
_U32: Final = struct.Struct("=I")
_UNMEASURED_US: Final = (0, 0xFFFFFFFF)


class Look(NamedTuple):
    """One connection at one moment; seconds before it.

    `unacked`: something was sent that the peer's kernel has not acknowledged; `repeated`: it was sent again, because
    nothing came for as long as this kernel waits; `sent_s`: since something was sent; `heard_s`: since anything came.
    """

    unacked: bool
    repeated: bool
    sent_s: float
    heard_s: float


def look(sock: socket.socket | None) -> Look | None:
    """A connection as it is now; None if it is over, or not one of TCP."""
    if sock is None:
        return None
    try:
        seen = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SEEN.size)
        state, retransmits, unacked, sent_ms, data_ms, ack_ms = _SEEN.unpack(seen)
    except (OSError, struct.error):
        return None
    if state == _SYN_SENT:  # no clock of data runs yet: they show the kernel's whole life
        return Look(unacked > 0, retransmits > 0, 0.0, math.inf)
    heard_s = min(data_ms, ack_ms) / 1000
    return Look(unacked > 0, retransmits > 0, sent_ms / 1000, heard_s)


def least_rtt_us(sock: socket.socket) -> int | None:
    """The shortest round trip that the kernel has measured on it; None if there is none."""
    try:
        seen = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _MIN_RTT_AT + _U32.size)
        (rtt_us,) = _U32.unpack_from(seen, _MIN_RTT_AT)
    except (OSError, struct.error):
        return None
    return None if rtt_us in _UNMEASURED_US else rtt_us
