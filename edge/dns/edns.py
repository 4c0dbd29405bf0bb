"""The OPT record of a query, read from its bytes and written for the answer (RFC 6891, RFC 7871); pure."""

import socket
import struct
from typing import Final, NamedTuple

from edge.dns.client import UNKNOWN, V4_BITS, Client, of_address

PAYLOAD_BYTES: Final = 1232  # what passes every path unfragmented (DNS flag day 2020)
MIN_PAYLOAD_BYTES: Final = 512
DO: Final = 0x8000
ECS: Final = 8
_OPT: Final = struct.Struct("!HHBBHH")  # type, payload, extended rcode, version, flags, length
_PAIR: Final = struct.Struct("!HH")
_V4_END: Final = bytes([V4_BITS])
_FAMILY: Final = struct.Struct("!HBB")
_ADDRESS: Final = {1: (socket.AF_INET, 4), 2: (socket.AF_INET6, 16)}


class Malformed(Exception):
    """The option breaks RFC 7871: the answer is FORMERR."""


class Edns(NamedTuple):
    """`client` is whom the subnet option names (None: there is none); `ecs` that option as it came."""

    payload: int
    version: int
    flags: int
    ecs: bytes = b""
    client: Client | None = None


def read(query: bytes, at: int) -> Edns | None:
    """The OPT record that is the rest of `query` from `at`; None if the rest is anything else. Raises Malformed."""
    if len(query) < at + 11 or query[at]:
        return None
    kind, payload, _rcode, version, flags, length = _OPT.unpack_from(query, at + 1)
    at += 11
    end = len(query)
    if kind != 41 or at + length != end:
        return None
    ecs, client = b"", None
    while at < end:
        if at + 4 > end:
            return None
        code, length = _PAIR.unpack_from(query, at)
        at += 4 + length
        if at > end:
            return None
        if code == ECS:
            if client is not None:
                raise Malformed("two subnets")
            ecs = query[at - length : at]
            client = subnet(ecs)
    return Edns(payload, version, flags, ecs, client)


def subnet(ecs: bytes) -> Client:
    """The client that a subnet option names. Raises Malformed."""
    if len(ecs) < 4:
        raise Malformed("a short subnet")
    family, source, scope = _FAMILY.unpack_from(ecs)
    if family == 1 and source == V4_BITS and not scope and len(ecs) == 7:  # what nearly every resolver sends
        return ecs[4:] + _V4_END
    if scope:
        raise Malformed("a query with a scope")
    if not source and len(ecs) == 4:
        return UNKNOWN  # "do not tell anybody who I am" (7.1.2); dig says it with family 0
    if family not in _ADDRESS:
        raise Malformed("an unknown family")
    size = _ADDRESS[family][1]
    if source > size * 8 or len(ecs) != 4 + (source + 7) // 8:
        raise Malformed("a length that is none")
    if source % 8 and ecs[-1] & (0xFF >> source % 8):
        raise Malformed("bits behind the prefix")
    return of_address(ecs[4:].ljust(size, b"\0"), source)


def write(edns: Edns, scope: int) -> bytes:
    """The OPT record of the answer: the subnet comes back with `scope`, and only if the query had one."""
    flags = edns.flags & DO
    if edns.client is None:
        return b"\0" + _OPT.pack(41, PAYLOAD_BYTES, 0, 0, flags, 0)
    option = _PAIR.pack(ECS, len(edns.ecs)) + edns.ecs[:3] + bytes([scope]) + edns.ecs[4:]
    return b"\0" + _OPT.pack(41, PAYLOAD_BYTES, 0, 0, flags, len(option)) + option


def limit(edns: Edns | None) -> int:
    """How many bytes a datagram to this client may have."""
    if edns is None or edns.payload <= MIN_PAYLOAD_BYTES:
        return MIN_PAYLOAD_BYTES
    return min(PAYLOAD_BYTES, edns.payload)
