"""What the zone says: every name in it, and for each type its records, some of them by who asks.

Names (`api` and `stream` are the operator's to rename):

    <zone>                  SOA, NS
    api.<zone>              the service: the anycast addresses if there are any, else the POP nearest to the client
    stream.<zone>           always the POP nearest to the client: a drain of the anycast address breaks no stream there
    <pop>.api.<zone>        one POP, whether it is well or not
    HTTPS of api, stream    the nearest POPs by priority, with their addresses as hints (RFC 9460)
    _https._tcp.api         the same as SRV

A name above another one that has no records itself exists too (RFC 8020): its answer is "no data".
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdataset
import dns.rdatatype
from dns.rdataset import Rdataset
from dns.rdatatype import AAAA, CNAME, HINFO, HTTPS, NS, SOA, SRV, TXT, A

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dns.name import Name

    from edge.dns.client import Address
    from edge.dns.settings import Pop, ZoneSettings

Ranking = tuple[int, ...]
"""Indexes of POPs, the best for a client first, at most NUM_RANKED."""
Records = Callable[[Ranking], Rdataset | None]
Node = dict[int, Records]
"""By type."""

NUM_RANKED: Final = 3  # a client that finds three POPs dead has no network
STATIC_TTL_S: Final = 3600
NEGATIVE_TTL_S: Final = 60  # RFC 2308: a name that is added is seen a minute later
CHALLENGE_TTL_S: Final = 1  # a CA that looks again must see the new token
MAX_RECORDS: Final = 1000
REFRESH, RETRY, EXPIRE = 7200, 900, 1209600  # nobody transfers the zone; RIPE-203's values
RFC8482: Final = '"RFC8482" ""'


class ZoneError(ValueError):
    """The zone cannot be made; the message names the record and the cause."""


class Zone:
    """`nodes`: name -> type -> records for a ranking. Never changed once made."""

    def __init__(
        self, settings: ZoneSettings, challenges: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    ) -> None:
        """`challenges` are TXT values by full name (ACME, dns-01). Raises ZoneError."""
        self.settings = settings
        self.apex = _name(settings.apex, dns.name.root)
        self.nodes: dict[Name, Node] = {}
        self._add_authority()
        self._add_pops()
        self._add_operators()
        for name, values in challenges.items():
            texts = [f'"{value}"' for value in values]
            self._put(_name(name, dns.name.root), TXT, _rdataset(TXT, CHALLENGE_TTL_S, texts))
        self._close()
        self.soa = self._fixed(self.apex, SOA)
        self.any = _rdataset(HINFO, STATIC_TTL_S, [RFC8482])

    def _fixed(self, name: Name, kind: int) -> Rdataset:
        found = self.nodes[name][kind](())
        if found is None:
            raise ZoneError(f"{name} has no {dns.rdatatype.to_text(dns.rdatatype.RdataType.make(kind))}")
        return found

    def _add_authority(self) -> None:
        names = {_name(text, self.apex): addresses for text, addresses in self.settings.nameservers.items()}
        if not names:
            raise ZoneError("a zone needs at least one name server")
        hostmaster = _name(self.settings.hostmaster, self.apex)
        times = f"{self.settings.serial} {REFRESH} {RETRY} {EXPIRE} {NEGATIVE_TTL_S}"
        soa = f"{next(iter(names))} {hostmaster} {times}"
        self._put(self.apex, SOA, _rdataset(SOA, STATIC_TTL_S, [soa]))
        self._put(self.apex, NS, _rdataset(NS, STATIC_TTL_S, [str(name) for name in names]))
        for name, addresses in names.items():
            if name.is_subdomain(self.apex):
                self._add_addresses(name, addresses, STATIC_TTL_S)

    def _add_pops(self) -> None:
        service, stream = (_name(label, self.apex) for label in (self.settings.service, self.settings.stream))
        for pop in self.settings.pops:
            self._add_addresses(_name(pop.name, service), pop.addresses, self.settings.ttl_s)
        steered = [stream] if self.settings.anycast else [service, stream]
        if self.settings.anycast:
            self._add_addresses(service, self.settings.anycast, self.settings.ttl_s)
        for name in steered:
            self._steer(name, A, lambda ranking: self._nearest(A, 4, ranking))
            self._steer(name, AAAA, lambda ranking: self._nearest(AAAA, 6, ranking))
        for name in (service, stream):
            self._steer(name, HTTPS, lambda ranking: self._https(service, ranking))
            self._steer(_name("_https._tcp", name), SRV, lambda ranking: self._srv(service, ranking))

    def _nearest(self, kind: int, version: int, ranking: Ranking) -> Rdataset | None:
        """The addresses of the best POP that has any of this family."""
        for index in ranking:
            texts = [str(each) for each in self.settings.pops[index].addresses if each.version == version]
            if texts:
                return _rdataset(kind, self.settings.ttl_s, texts)
        return None

    def _https(self, service: Name, ranking: Ranking) -> Rdataset | None:
        texts = []
        for place, index in enumerate(ranking, 1):
            pop = self.settings.pops[index]
            port = f" port={pop.port}" if pop.port != 443 else ""
            texts.append(f"{place} {_name(pop.name, service)}{port}{_hints(pop)}")
        return _rdataset(HTTPS, self.settings.ttl_s, texts) if texts else None

    def _srv(self, service: Name, ranking: Ranking) -> Rdataset | None:
        pops = [(10 * place, self.settings.pops[index]) for place, index in enumerate(ranking, 1)]
        texts = [f"{priority} 0 {pop.port} {_name(pop.name, service)}" for priority, pop in pops]
        return _rdataset(SRV, self.settings.ttl_s, texts) if texts else None

    def _add_operators(self) -> None:
        if len(self.settings.records) > MAX_RECORDS:
            raise ZoneError(f"{len(self.settings.records)} records; at most {MAX_RECORDS}")
        for line in self.settings.records:
            self._add_line(line)

    def _add_line(self, line: str) -> None:
        """One record of the operator: `NAME [TTL] TYPE VALUE`, names without a dot at the end are in the zone."""
        words = line.split(None, 1)
        name = _name(words[0], self.apex) if len(words) == 2 else None
        if name is None or not name.is_subdomain(self.apex) or name.is_wild():
            raise ZoneError(
                f"record {line!r} needs NAME [TTL] TYPE VALUE, with a NAME in the zone and no wildcard"
            )
        first, _, rest = words[1].partition(" ")
        ttl_s, (kind, _, value) = (
            (int(first), rest.strip().partition(" "))
            if first.isdigit()
            else (STATIC_TTL_S, words[1].partition(" "))
        )
        try:
            type_ = dns.rdatatype.from_text(kind)
            rdata = dns.rdata.from_text(dns.rdataclass.IN, type_, value, origin=self.apex, relativize=False)
        except (dns.exception.DNSException, ValueError) as error:
            raise ZoneError(f"record {line!r}: {error}") from error
        if type_ in (SOA, NS) or dns.rdatatype.is_metatype(type_):
            raise ZoneError(
                f"record {line!r}: {kind} is not the operator's to set here; NS comes from nameservers"
            )
        self._add_rdata(name, type_, ttl_s, rdata, line)

    def _add_rdata(self, name: Name, kind: int, ttl_s: int, rdata: dns.rdata.Rdata, line: str) -> None:
        node = self.nodes.setdefault(name, {})
        if node and (kind == CNAME or CNAME in node):
            raise ZoneError(f"record {line!r}: an alias stands alone, and {name} has other records")
        known = node[kind](()) if kind in node else None
        rdataset = dns.rdataset.from_rdata(ttl_s, *(known or ()), rdata)
        node[kind] = _always(rdataset)

    def _add_addresses(self, name: Name, addresses: Iterable[Address], ttl_s: int) -> None:
        for version, kind in ((4, A), (6, AAAA)):
            texts = [str(each) for each in addresses if each.version == version]
            if texts:
                self._put(name, kind, _rdataset(kind, ttl_s, texts))

    def _put(self, name: Name, kind: int, rdataset: Rdataset) -> None:
        self._steer(name, kind, _always(rdataset))

    def _steer(self, name: Name, kind: int, records: Records) -> None:
        node = self.nodes.setdefault(name, {})
        if kind in node:
            raise ZoneError(
                f"{name} is used twice: POPs, name servers and the service need names of their own"
            )
        node[kind] = records

    def _close(self) -> None:
        """Make the names above each name exist."""
        for name in tuple(self.nodes):
            if not name.is_subdomain(self.apex):
                raise ZoneError(f"{name} is not in {self.apex}")
            above = name
            while above != self.apex:
                above = above.parent()
                self.nodes.setdefault(above, {})


def _always(rdataset: Rdataset) -> Records:
    return lambda _ranking: rdataset


def _hints(pop: Pop) -> str:
    found = ""
    for version in (4, 6):
        texts = [str(each) for each in pop.addresses if each.version == version]
        found += f" ipv{version}hint={','.join(texts)}" if texts else ""
    return found


def _rdataset(kind: int, ttl_s: int, texts: Iterable[str]) -> Rdataset:
    return dns.rdataset.from_text_list(
        dns.rdataclass.IN, dns.rdatatype.RdataType.make(kind), ttl_s, list(texts)
    )


def _name(text: str, origin: Name) -> Name:
    """Raises ZoneError."""
    try:
        return dns.name.from_text(text, origin).canonicalize()
    except (dns.exception.DNSException, ValueError) as error:
        raise ZoneError(f"{text!r} is not a name: {error}") from error
