"""Every question, answered by dnspython: what the fast path leaves over, and what it is checked against."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import dns.tsig
from dns.rdatatype import CNAME

from edge.dns import edns as edns_
from edge.dns.client import width
from edge.dns.fast import ANY, META
from edge.dns.wire import FORMERR, HEADER_BYTES, NOTIMP, OPCODE, QR, bare
from edge.dns.zone import NEGATIVE_TTL_S

if TYPE_CHECKING:
    from dns.message import Message
    from dns.name import Name
    from dns.rdataset import Rdataset

    from edge.dns.client import Client
    from edge.dns.steer import Steering
    from edge.dns.zone import Node, Ranking, Zone

MAX_ALIASES: Final = 8
UNREADABLE: Final = (dns.exception.DNSException, ValueError, IndexError, OverflowError)


class SlowPath:
    """`answer` has an answer for everything that has a header and is not an answer itself."""

    def __init__(self, zone: Zone, steering: Steering) -> None:
        self._zone = zone
        self._steering = steering

    def answer(self, query: bytes, asker: Client, limit: int | None) -> bytes:
        """The answer for `asker`, at most `limit` bytes (None: by the client's EDNS); b"": nothing is to be said."""
        if len(query) < HEADER_BYTES or query[2] & QR:
            return b""
        if query[2] & OPCODE:
            return bare(query, NOTIMP)
        try:
            message = dns.message.from_wire(query, raise_on_truncation=False)
        except dns.message.UnknownTSIGKey:
            return bare(query, dns.rcode.NOTAUTH)
        except UNREADABLE:
            return bare(query, FORMERR)
        if len(message.question) != 1 or _has_pointer(query):
            return bare(query, FORMERR)
        return self._reply(message, asker, limit)

    def _reply(self, message: Message, asker: Client, limit: int | None) -> bytes:
        reply = dns.message.make_response(message, our_payload=edns_.PAYLOAD_BYTES)
        edns, client, ecs = None, None, None
        if message.edns >= 0:
            try:
                client, ecs = _subnet(message)
            except edns_.Malformed:
                return bare(message.wire or b"\0" * 12, FORMERR)
            edns = edns_.Edns(message.payload, message.edns, message.ednsflags)
        scope = self._fill(reply, message, asker if client is None else client)
        if message.edns >= 0:
            options = [] if ecs is None else [_scoped(ecs, scope)]
            flags = message.ednsflags & edns_.DO
            reply.use_edns(0, flags, edns_.PAYLOAD_BYTES, options=options)
        if message.edns > 0:
            reply.set_rcode(dns.rcode.BADVERS)
        return _bounded(reply, edns_.limit(edns) if limit is None else limit)

    def _fill(self, reply: Message, message: Message, client: Client) -> int:
        """Set rcode, flags and sections; returns the scope of the answer."""
        question = message.question[0]
        name, kind = question.name, question.rdtype
        refused = question.rdclass != dns.rdataclass.IN or kind in META
        if message.edns > 0:
            return 0
        if refused or not name.is_subdomain(self._zone.apex):
            reply.set_rcode(dns.rcode.REFUSED)
            return 0
        reply.flags |= dns.flags.AA
        return self._look_up(reply, name, kind, client)

    def _look_up(self, reply: Message, name: Name, kind: int, client: Client) -> int:
        scope = 0
        ranking = self._steering.ranking(client)
        for _ in range(MAX_ALIASES):
            node = self._zone.nodes.get(name)
            if node is None:
                reply.set_rcode(dns.rcode.NXDOMAIN)
                break
            found, steered = self._records(node, kind, ranking)
            scope = max(scope, width(client) if steered and client[-1] else 0)
            if found is None:
                break
            _add(reply.answer, name, found)
            if (
                found.rdtype != CNAME
                or kind in (CNAME, ANY)
                or not (name := found[0].target).is_subdomain(self._zone.apex)
            ):
                return scope
        soa = self._zone.soa
        _add(reply.authority, self._zone.apex, soa, min(soa.ttl, NEGATIVE_TTL_S))
        return scope

    def _records(self, node: Node, kind: int, ranking: Ranking) -> tuple[Rdataset | None, bool]:
        """The records of a type (of an alias instead), and whether they depend on who asks."""
        if CNAME in node:
            kind = CNAME
        source = node.get(kind)
        if source is not None:
            return source(ranking), source(()) is None
        return (self._zone.any if kind == ANY else None), False


def _add(section: list[dns.rrset.RRset], name: Name, rdataset: Rdataset, ttl_s: int | None = None) -> None:
    section.append(dns.rrset.from_rdata_list(name, rdataset.ttl if ttl_s is None else ttl_s, list(rdataset)))


def _subnet(message: Message) -> tuple[Client | None, dns.edns.ECSOption | None]:
    """Whom the subnet option names. Raises Malformed."""
    found = [option for option in message.options if isinstance(option, dns.edns.ECSOption)]
    if len(found) > 1:
        raise edns_.Malformed("two subnets")
    return (edns_.subnet(found[0].to_wire() or b""), found[0]) if found else (None, None)


def _scoped(ecs: dns.edns.ECSOption, scope: int) -> dns.edns.Option:
    return dns.edns.ECSOption(ecs.address, ecs.srclen, scope)


def _has_pointer(query: bytes) -> bool:
    """A question's name has nothing before it that it could point to but the header."""
    at = HEADER_BYTES
    while at < len(query) and query[at]:
        if query[at] >= 0x40:
            return True
        at += query[at] + 1
    return False


def _bounded(reply: Message, limit: int) -> bytes:
    try:
        return reply.to_wire(max_size=limit)
    except dns.exception.TooBig:
        reply.flags |= dns.flags.TC
        reply.answer.clear()
        reply.authority.clear()
        return reply.to_wire(max_size=limit)
