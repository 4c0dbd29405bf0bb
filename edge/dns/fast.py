"""Ordinary questions, answered without a parser: one look-up by the name's bytes, and pieces made beforehand.

What is not ordinary (several questions, other sections, other opcodes, aliases, TSIG, an unknown EDNS version) is left
to `slow.py`, which is also the tests' second opinion: what is said here must be what it would say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edge.dns import edns as edns_
from edge.dns.client import width
from edge.dns.wire import (
    AA,
    FORMERR,
    HEADER_BYTES,
    NXDOMAIN,
    QR,
    RD,
    REFUSED,
    TC,
    bare,
    records,
    suffix_at,
)
from edge.dns.zone import NEGATIVE_TTL_S

if TYPE_CHECKING:
    from dns.rdataset import Rdataset

    from edge.dns.client import Client
    from edge.dns.steer import Steering
    from edge.dns.zone import Ranking, Records, Zone

ANY: Final = 255
CNAME: Final = 5
META: Final = frozenset((41, 249, 250, 251, 252, 253, 254))
"""Types that are no data: OPT, TKEY, TSIG, zone transfers, and RFC 1035's own obsolete ones. All are refused."""
MAX_MADE: Final = 4096  # answers kept for each steered name and type: 16 POPs have 3,360 rankings

Piece = tuple[bytes, int]
"""Records as bytes, and how many."""


class _Static:
    """Records that are everybody's."""

    __slots__ = ("_piece",)

    def __init__(self, rdataset: Rdataset) -> None:
        self._piece: Piece = (records(rdataset), len(rdataset))

    def of(self, _steering: Steering, _client: Client) -> tuple[Piece, int]:
        return self._piece, 0


class _Steered:
    """Records by ranking, made when they are first asked for."""

    __slots__ = ("_made", "_source")

    def __init__(self, source: Records) -> None:
        self._source = source
        self._made: dict[Ranking, Piece] = {}

    def of(self, steering: Steering, client: Client) -> tuple[Piece, int]:
        """The records, and the scope: answers differ by whole clients, unless no bit was shown."""
        ranking = steering.ranking(client)
        piece = self._made.get(ranking)
        if piece is None:
            if len(self._made) >= MAX_MADE:
                self._made.clear()
            rdataset = self._source(ranking)
            piece = self._made[ranking] = (b"", 0) if rdataset is None else (records(rdataset), len(rdataset))
        return piece, (width(client) if client[-1] else 0)


class FastPath:
    """`answer` says what it can at once, or None."""

    def __init__(self, zone: Zone, steering: Steering) -> None:
        self._steering = steering
        self._apex = zone.apex.to_wire() or b""
        self._soa = records(zone.soa, b"", min(zone.soa.ttl, NEGATIVE_TTL_S))
        self._any: Piece = (records(zone.any), 1)
        self._nodes: dict[bytes, dict[int, _Static | _Steered]] = {}
        for name, node in zone.nodes.items():
            entries = {kind: _entry(source) for kind, source in node.items()}
            self._nodes[(name.to_wire() or b"")[:-1]] = entries

    def answer(self, query: bytes, asker: Client, limit: int | None) -> bytes | None:
        """The answer for `asker`, at most `limit` bytes (None: by the client's EDNS); None: ask the slow path."""
        end = query.find(b"\0", HEADER_BYTES)
        # one question, nothing but perhaps one additional record, a plain query
        if (
            query[4:11] != b"\0\1\0\0\0\0\0"
            or query[11] > 1
            or query[2] & ~RD
            or not 0 < end <= len(query) - 5
        ):
            return None
        rest = end + 5
        edns = None
        if query[11]:
            try:
                edns = edns_.read(query, rest)
            except edns_.Malformed:
                return bare(query, FORMERR)
            if edns is None or edns.version:
                return None
        elif rest != len(query):
            return None
        return self._say(query, end, edns, asker, limit)

    def _say(
        self, query: bytes, end: int, edns: edns_.Edns | None, asker: Client, limit: int | None
    ) -> bytes | None:
        """Header, question, records, OPT."""
        found = self._find(query, end, asker if edns is None or edns.client is None else edns.client)
        if not isinstance(found, tuple):
            return found
        flags, rcode, num_answers, num_authority, piece, scope = found
        opt = b"" if edns is None else edns_.write(edns, scope)
        question = query[HEADER_BYTES : end + 5]
        head = query[:2] + bytes((flags | query[2] & RD, rcode)) + b"\0\1\0"
        whole = head + bytes((num_answers, 0, num_authority, 0, 1 if opt else 0)) + question + piece + opt
        if len(whole) <= (edns_.limit(edns) if limit is None else limit):
            return whole
        head = query[:2] + bytes((flags | TC | query[2] & RD, rcode)) + b"\0\1"
        return head + b"\0\0\0\0" + (b"\0\1" if opt else b"\0\0") + question + opt

    def _find(
        self, query: bytes, end: int, client: Client
    ) -> tuple[int, int, int, int, bytes, int] | bytes | None:
        """(flags, rcode, number of answers, of authority records, records, scope of the subnet)."""
        kind = query[end + 1] << 8 | query[end + 2]
        if query[end + 3 : end + 5] != b"\0\1" or kind in META:
            return None
        node = self._nodes.get(query[HEADER_BYTES:end].lower())
        if node is None:
            return self._unknown(query, end)
        entry = node.get(kind)
        scope = 0
        if entry is not None:
            (piece, num), scope = entry.of(self._steering, client)
            if num:
                return QR | AA, 0, num, 0, piece, scope
        elif CNAME in node:
            return None
        elif kind == ANY:
            return QR | AA, 0, 1, 0, self._any[0], 0
        at = len(query[HEADER_BYTES : end + 1]) - len(self._apex)
        return QR | AA, 0, 0, 1, self._negative(at), scope

    def _unknown(self, query: bytes, end: int) -> tuple[int, int, int, int, bytes, int] | bytes:
        at = suffix_at(query[HEADER_BYTES : end + 1].lower(), self._apex)
        if at == -2:
            return bare(query, FORMERR)
        if at == -1:
            return QR, REFUSED, 0, 0, b"", 0
        return QR | AA, NXDOMAIN, 0, 1, self._negative(at), 0

    def _negative(self, at: int) -> bytes:
        """The SOA that says how long nothing may be remembered (RFC 2308)."""
        return (0xC000 | HEADER_BYTES + at).to_bytes(2) + self._soa


def _entry(source: Records) -> _Static | _Steered:
    """Nobody's ranking gives steered names nothing, and every other name its records."""
    fixed = source(())
    return _Steered(source) if fixed is None else _Static(fixed)
