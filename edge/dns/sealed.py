"""What edges and the ACME client tell the name servers: one datagram, authenticated, dated, and good once; pure.

    "NFD1" | time u64, ns since 1970 | kind u8 | length of sender u8 | sender | payload | HMAC-SHA256 of all before

A row of a region would travel through the regions; this must also arrive when they do not, says something every second,
and may be lost. So it is a datagram from each edge to each name server, under a key derived from the fleet's root key.
"""

import hashlib
import hmac
import struct
from enum import IntEnum
from typing import Final, NamedTuple

MAGIC: Final = b"NFD1"
MAX_BYTES: Final = 1232
MAX_SENDER_BYTES: Final = 63
MAX_SKEW_NS: Final = 60 * 10**9  # between two hosts' clocks
MAX_SENDERS: Final = 1024
_HEAD: Final = struct.Struct("!4sQBB")
_TAG_BYTES: Final = 32


class Kind(IntEnum):
    """What the payload is."""

    REPORT = 1
    CHALLENGE = 2


class Sealed(NamedTuple):
    """One message, opened."""

    kind: Kind
    sender: str
    payload: bytes


class SealError(Exception):
    """The datagram is not to be believed; the message says why."""


def seal(message: Sealed, time_ns: int, key: bytes) -> bytes:
    """The datagram. Raises ValueError if it is too long."""
    sender = message.sender.encode()
    data = _HEAD.pack(MAGIC, time_ns, message.kind, len(sender)) + sender + message.payload
    if len(sender) > MAX_SENDER_BYTES or len(data) > MAX_BYTES - _TAG_BYTES:
        raise ValueError(f"a message of {len(data)} bytes from {message.sender!r} is too long")
    return data + hmac.digest(key, data, hashlib.sha256)


class Opener:
    """Opens datagrams; of each sender and kind only ever newer ones."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._latest: dict[tuple[str, Kind], int] = {}

    def open(self, datagram: bytes, now_ns: int) -> Sealed:
        """Raises SealError: not ours, forged, too old, seen before."""
        data, tag = datagram[:-_TAG_BYTES], datagram[-_TAG_BYTES:]
        if not hmac.compare_digest(hmac.digest(self._key, data, hashlib.sha256), tag):
            raise SealError("a wrong seal")
        if len(data) < _HEAD.size:
            raise SealError("too short")
        magic, time_ns, kind, length = _HEAD.unpack_from(data)
        payload_at = _HEAD.size + length
        if magic != MAGIC or payload_at > len(data) or kind not in Kind._value2member_map_:
            raise SealError("another form of message")
        sender = data[_HEAD.size : payload_at].decode("utf-8", "replace")
        self._admit((sender, Kind(kind)), time_ns, now_ns)
        return Sealed(Kind(kind), sender, data[payload_at:])

    def _admit(self, source: tuple[str, Kind], time_ns: int, now_ns: int) -> None:
        if abs(now_ns - time_ns) > MAX_SKEW_NS:
            raise SealError(f"{source[0]}'s clock is {(time_ns - now_ns) / 1e9:+.0f} s from ours")
        if time_ns <= self._latest.get(source, 0):
            raise SealError("seen before")
        if source not in self._latest and len(self._latest) >= MAX_SENDERS:
            self._forget(now_ns)
        self._latest[source] = time_ns

    def _forget(self, now_ns: int) -> None:
        """Senders whose messages would be too old by now. Raises SealError: there are none."""
        self._latest = {each: at for each, at in self._latest.items() if now_ns - at <= MAX_SKEW_NS}
        if len(self._latest) >= MAX_SENDERS:
            raise SealError("too many senders")
