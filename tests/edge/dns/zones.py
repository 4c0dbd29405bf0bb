"""One zone of three POPs for the tests, and what dnspython asks and hears of it."""

from ipaddress import ip_address, ip_network

import dns.edns
import dns.message
import dns.rdatatype

from edge.dns.rate import ResponseRate
from edge.dns.respond import Responder
from edge.dns.rtt import RttTable
from edge.dns.settings import Pop, ZoneSettings
from edge.dns.steer import Steering
from edge.dns.zone import Zone

APEX = "nf.example"
FRA, IAD, NRT = 0, 1, 2
POPS = (
    Pop(
        "fra",
        (ip_address("192.0.2.1"), ip_address("2001:db8::1")),
        near=(ip_network("10.2.0.0/16"), ip_network("2001:db8:f::/48")),
        following=("nrt",),
    ),
    Pop("iad", (ip_address("192.0.2.2"), ip_address("192.0.2.22")), near=(ip_network("10.2.2.0/24"),)),
    Pop("nrt", (ip_address("192.0.2.3"), ip_address("2001:db8::3")), 8443, near=(ip_network("10.3.0.0/20"),)),
)
RECORDS = (
    "www CNAME api",
    "chain CNAME www",
    "loop CNAME pool",
    "pool CNAME loop",
    "away CNAME www.example.com.",
    "broken CNAME nowhere",
    '@ TXT "v=spf1 -all" "second string"',
    '@ 300 CAA 0 issue "letsencrypt.org"',
    "@ MX 10 mail.example.com.",
    *(f'big TXT "{number:02d} {"x" * 200}"' for number in range(20)),
    'deep.er.down TXT "here"',
)


def settings(**changes) -> ZoneSettings:
    given = {
        "apex": APEX,
        "pops": POPS,
        "nameservers": {
            "ns1": (ip_address("192.0.2.53"),),
            "ns2.example.net.": (ip_address("198.51.100.1"),),
        },
        "records": RECORDS,
    }
    return ZoneSettings(**(given | changes))


def responder(rate_per_s: float = 1e9, **changes) -> tuple[Responder, Steering]:
    made = settings(**changes)
    steering = Steering(made.pops, RttTable(), made.ttl_s)
    return Responder(Zone(made), steering, ResponseRate(rate_per_s)), steering


def question(name: str, kind: str = "A", *, subnet: str = "", edns: bool = True, **options) -> bytes:
    extra = [dns.edns.ECSOption.from_text(f"ECS {subnet}")] if subnet else []
    query = dns.message.make_query(name, kind, use_edns=0 if edns else -1, options=extra or None, **options)
    query.flags = 0
    return query.to_wire()


def ask(
    server: Responder, name: str, kind: str = "A", *, host: str = "198.51.100.7", **options
) -> dns.message.Message:
    return dns.message.from_wire(server.datagram(question(name, kind, **options), host, 0.0))


def values(message: dns.message.Message) -> list[str]:
    """What the last answered name's records say."""
    return sorted(rdata.to_text() for rdata in message.answer[-1]) if message.answer else []
