"""DNS messages as bytes: what the fast path and the refusals need of RFC 1035."""

import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dns.rdataset import Rdataset

HEADER_BYTES: Final = 12
MAX_NAME_BYTES: Final = 255
MAX_LABEL_BYTES: Final = 63
IN: Final = 1
QR, AA, TC, RD = 0x80, 0x04, 0x02, 0x01
OPCODE: Final = 0x78
NOERROR, FORMERR, NXDOMAIN, NOTIMP, REFUSED = 0, 1, 3, 4, 5
TO_QUESTION: Final = b"\xc0\x0c"
"""A pointer to the question's name: the owner of what is answered, in the letters of the question (0x20)."""

_RECORD: Final = struct.Struct("!HHIH")


def records(rdataset: "Rdataset", owner: bytes = TO_QUESTION, ttl_s: int | None = None) -> bytes:
    """Each record of `rdataset`, names in it uncompressed."""
    ttl_s = rdataset.ttl if ttl_s is None else ttl_s
    wires = [rdata.to_wire() or b"" for rdata in rdataset]
    return b"".join(owner + _RECORD.pack(rdataset.rdtype, IN, ttl_s, len(wire)) + wire for wire in wires)


def suffix_at(name: bytes, apex: bytes) -> int:
    """Where in `name` (lower case, as in a question) the zone `apex` begins; -1: elsewhere; -2: that is no name."""
    at, end = 0, len(name)
    found = -1
    if end > MAX_NAME_BYTES:
        return -2
    while at < end - 1:
        if found < 0 and end - at == len(apex) and name.endswith(apex):
            found = at
        length = name[at]
        if not 0 < length <= MAX_LABEL_BYTES:
            return -2
        at += length + 1
    if at != end - 1 or name[at]:
        return -2
    return found


def bare(query: bytes, rcode: int) -> bytes:
    """An answer that is a header only: nothing behind it could be read."""
    return query[:2] + bytes([QR | query[2] & (OPCODE | RD), rcode]) + b"\0\0\0\0\0\0\0\0"


def truncated(query: bytes) -> bytes:
    """What says "ask again over TCP", never longer than the question; b"" where the question is not an ordinary one."""
    end = query.find(b"\0", HEADER_BYTES) + 5
    if query[2] & (QR | OPCODE) or query[4:6] != b"\0\1" or not HEADER_BYTES + 5 <= end <= len(query):
        return b""
    return query[:2] + bytes([QR | TC | query[2] & RD, 0]) + b"\0\1\0\0\0\0\0\0" + query[HEADER_BYTES:end]
