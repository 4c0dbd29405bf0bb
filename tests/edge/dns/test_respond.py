"""What the name server says, through bytes: dnspython reads every answer."""

import dns.flags
import dns.message
import dns.rcode
import pytest

from edge.dns.wire import HEADER_BYTES
from edge.dns.zone import Zone, ZoneError
from tests.edge.dns.zones import APEX, FRA, IAD, NRT, ask, question, responder, settings, values


@pytest.fixture
def server():
    return responder()[0]


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("api", "A", ["192.0.2.1"]),
        ("api", "AAAA", ["2001:db8::1"]),
        ("iad.api", "A", ["192.0.2.2", "192.0.2.22"]),
        ("www", "A", ["192.0.2.1"]),
        ("chain", "AAAA", ["2001:db8::1"]),
        ("ns1", "A", ["192.0.2.53"]),
        ("@", "NS", ["ns1.nf.example.", "ns2.example.net."]),
        ("@", "MX", ["10 mail.example.com."]),
        ("@", "SOA", ["ns1.nf.example. hostmaster.nf.example. 1 7200 900 1209600 60"]),
        ("api", "ANY", ['"RFC8482" ""']),
        (
            "_https._tcp.api",
            "SRV",
            [
                f"{n}0 0 {p} {x}.api.{APEX}."
                for n, p, x in ((1, 443, "fra"), (2, 443, "iad"), (3, 8443, "nrt"))
            ],
        ),
        (
            "stream",
            "HTTPS",
            [
                f'1 fra.api.{APEX}. ipv4hint="192.0.2.1" ipv6hint="2001:db8::1"',
                f'2 iad.api.{APEX}. ipv4hint="192.0.2.2,192.0.2.22"',
                f'3 nrt.api.{APEX}. port="8443" ipv4hint="192.0.2.3" ipv6hint="2001:db8::3"',
            ],
        ),
    ],
)
def test_each_name_says_its_records(server, name, kind, said):
    answer = ask(server, APEX if name == "@" else f"{name}.{APEX}", kind)

    assert values(answer) == said
    assert answer.flags & dns.flags.AA
    assert answer.rcode() == dns.rcode.NOERROR


@pytest.mark.parametrize(
    ("name", "kind", "rcode", "authority"),
    [
        ("nowhere.nf.example", "A", dns.rcode.NXDOMAIN, 1),
        ("below.fra.api.nf.example", "A", dns.rcode.NXDOMAIN, 1),
        ("api.nf.example", "TXT", dns.rcode.NOERROR, 1),  # NODATA
        ("_tcp.api.nf.example", "A", dns.rcode.NOERROR, 1),  # exists by what is below it
        ("er.down.nf.example", "A", dns.rcode.NOERROR, 1),
        ("iad.api.nf.example", "AAAA", dns.rcode.NOERROR, 1),
        ("nf.example.org", "A", dns.rcode.REFUSED, 0),
        ("notnf.example", "A", dns.rcode.REFUSED, 0),
        (".", "NS", dns.rcode.REFUSED, 0),
        ("nf.example", "AXFR", dns.rcode.REFUSED, 0),
        ("broken.nf.example", "A", dns.rcode.NXDOMAIN, 1),
    ],
)
def test_what_is_not_there_is_said_the_right_way(server, name, kind, rcode, authority):
    """RFC 2308: no such name and no such data differ, and the SOA says for how long."""
    answer = ask(server, name, kind)

    assert answer.rcode() == rcode
    assert len(answer.authority) == authority
    for soa in answer.authority:
        assert soa.ttl == 60
        assert soa.name.to_text().lower() == "nf.example."


def test_the_letters_of_the_question_come_back(server):
    """0x20: a resolver believes only an answer that repeats its capitals."""
    query = question("aPi.nF.eXAmple", "A")
    answer = server.datagram(query, "198.51.100.7", 0.0)

    assert b"\x03aPi\x02nF\x07eXAmple\0" in answer
    missing = server.datagram(question("nO.nF.eXAmple", "A"), "198.51.100.7", 0.0)
    assert dns.message.from_wire(missing).authority[0].name.to_text() == "nF.eXAmple."


@pytest.mark.parametrize(
    ("subnet", "said", "scope"),
    [
        ("10.2.1.0/24", "192.0.2.1", 24),
        ("10.2.2.0/24", "192.0.2.2", 24),
        ("10.2.2.77/32", "192.0.2.2", 24),
        ("10.2.0.0/16", "192.0.2.1", 24),
        ("10.3.15.0/24", "192.0.2.3", 24),
        ("10.3.16.0/24", "192.0.2.1", 24),
        ("0.0.0.0/0", "192.0.2.1", 0),
        ("2001:db8:f:1200::/56", "192.0.2.1", 56),
    ],
)
def test_a_client_is_sent_to_the_pop_whose_network_it_is_in(server, subnet, said, scope):
    """RFC 7871: the subnet comes back as it was, with the bits that were looked at."""
    answer = ask(server, f"api.{APEX}", subnet=subnet)

    assert values(answer)[0] == said
    assert [(f"{option.address}/{option.srclen}", option.scopelen) for option in answer.options] == [
        (subnet, scope)
    ]


def test_a_resolver_that_shows_no_subnet_stands_for_its_clients(server):
    answer = ask(server, f"api.{APEX}", host="10.2.2.9")

    assert values(answer) == ["192.0.2.2", "192.0.2.22"]
    assert not answer.options
    assert values(ask(server, f"api.{APEX}", host="2001:db8:f::9%eth0")) == ["192.0.2.1"]
    assert values(ask(server, f"api.{APEX}", host="::ffff:10.3.1.1")) == ["192.0.2.3"]


@pytest.mark.parametrize(
    "ecs",
    [
        b"\0\3\x18\0\x0a\2\1",  # family
        b"\0\1\x18\x18\x0a\2\1",  # scope in a query
        b"\0\1\x21\0\x0a\2\1\1\1",  # more bits than there are
        b"\0\1\x18\0\x0a\2",  # too short for its length
        b"\0\1\x18\0\x0a\2\1\0",  # too long
        b"\0\1\x14\0\x0a\2\x11",  # bits behind the prefix
        b"\0\1\x18",
        b"",
    ],
)
def test_a_malformed_subnet_is_a_format_error(server, ecs):
    query = bytearray(question(f"api.{APEX}", "A"))
    query[-2:] = (len(ecs) + 4).to_bytes(2) + b"\0\x08" + len(ecs).to_bytes(2) + ecs
    answer = dns.message.from_wire(server.datagram(bytes(query), "198.51.100.7", 0.0))

    assert answer.rcode() == dns.rcode.FORMERR
    assert not answer.answer


def with_header(query: bytes, **changed: bytes) -> bytes:
    at = {"flags": (2, 4), "questions": (4, 6), "answers": (6, 8), "version": (-5, -4)}
    data = bytearray(query)
    for name, value in changed.items():
        start, end = at[name]
        data[start:end] = value
    return bytes(data)


@pytest.mark.parametrize(
    ("changed", "rcode"),
    [
        ({"flags": b"\x28\0"}, dns.rcode.NOTIMP),  # UPDATE
        ({"flags": b"\x10\0"}, dns.rcode.NOTIMP),  # STATUS
        ({"questions": b"\0\0"}, dns.rcode.FORMERR),
        ({"questions": b"\0\2"}, dns.rcode.FORMERR),
        ({"answers": b"\0\1"}, dns.rcode.FORMERR),
        ({"version": b"\1"}, dns.rcode.BADVERS),
    ],
)
def test_what_is_no_ordinary_question_gets_the_right_refusal(server, changed, rcode):
    query = with_header(question(f"api.{APEX}", "A"), **changed)
    answer = server.datagram(query, "198.51.100.7", 0.0)

    assert dns.message.from_wire(answer).rcode() == rcode
    assert answer[:2] == query[:2]
    assert len(answer) <= len(query)


@pytest.mark.parametrize(
    "name", [b"\xc0\x0c", b"\xc0\x00", b"\3api\xc0\x0c", b"\x40api\0", b"\3api" + b"\x3f" * 300]
)
def test_pointers_and_other_labels_in_a_question_are_refused(server, name):
    query = question(f"api.{APEX}", "A", edns=False)[:HEADER_BYTES] + name + b"\0\1\0\1"
    answer = server.datagram(query, "198.51.100.7", 0.0)

    assert dns.message.from_wire(answer).rcode() == dns.rcode.FORMERR
    assert len(answer) == HEADER_BYTES


@pytest.mark.parametrize("data", [b"", b"\0" * 11, b"\1\2\x80\0" + b"\0" * 8])
def test_what_is_no_question_at_all_gets_no_answer(server, data):
    """An answer to an answer would go on for ever between two servers."""
    assert server.datagram(data, "198.51.100.7", 0.0) == b""
    assert server.segment(data, "198.51.100.7", 0.0) == b""


@pytest.mark.parametrize(
    ("payload", "edns"), [(512, True), (100, True), (1232, True), (65_535, True), (0, False)]
)
def test_what_does_not_fit_is_truncated_and_whole_over_tcp(server, payload, edns):
    query = question(f"big.{APEX}", "TXT", edns=edns, **({"payload": payload} if edns else {}))
    short = server.datagram(query, "198.51.100.7", 0.0)
    whole = dns.message.from_wire(server.segment(query, "198.51.100.7", 0.0))

    assert len(short) <= max(512, min(payload, 1232))
    assert dns.message.from_wire(short).flags & dns.flags.TC
    assert not dns.message.from_wire(short).answer
    assert len(whole.answer[0]) == 20
    assert not whole.flags & dns.flags.TC


def test_a_drained_pop_leaves_and_the_last_good_answer_stays():
    server, steering = responder()
    told = []
    for up in ({FRA, IAD, NRT}, {IAD, NRT}, {IAD}, set(), {FRA}):
        steering.set_up(frozenset(up))
        told.append(values(ask(server, f"api.{APEX}", subnet="10.2.1.0/24"))[0])

    assert told == ["192.0.2.1", "192.0.2.3", "192.0.2.2", "192.0.2.2", "192.0.2.1"]


def test_the_service_is_anycast_where_there_is_an_address_for_it():
    vip = settings().nameservers["ns1"]
    server, _ = responder(anycast=vip)

    assert values(ask(server, f"api.{APEX}", subnet="10.3.1.0/24")) == ["192.0.2.53"]
    assert ask(server, f"api.{APEX}", subnet="10.3.1.0/24").options[0].scopelen == 0
    assert values(ask(server, f"stream.{APEX}", subnet="10.3.1.0/24")) == ["192.0.2.3"]
    assert values(ask(server, f"api.{APEX}", "HTTPS", subnet="10.3.1.0/24"))[0].startswith("1 nrt.api")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"records": ("*.x A 192.0.2.1",)}, "no wildcard"),
        ({"records": ("x A not-an-address",)}, "x A not-an-address"),
        ({"records": ("x WHAT 1",)}, "x WHAT 1"),
        ({"records": ("x.example.com. A 192.0.2.1",)}, "in the zone"),
        ({"records": ("x NS ns9",)}, "nameservers"),
        ({"records": ("x",)}, "NAME"),
        ({"records": ("api CNAME x",)}, "alias"),
        ({"nameservers": {}}, "name server"),
        ({"apex": "a..b"}, "not a name"),
        ({"stream": "api"}, "used twice"),
    ],
)
def test_a_mistake_in_the_zone_is_named(changes, words):
    with pytest.raises(ZoneError, match=words.replace("*", ".")):
        Zone(settings(**changes))
