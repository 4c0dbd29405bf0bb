"""The fast path against dnspython's, for every question that it answers; and hostile bytes against both."""

import random

import dns.message
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.dns.client import of_host
from edge.dns.wire import truncated
from tests.edge.dns.zones import APEX, RECORDS, responder
from tests.evidence import count

SERVER, STEERING = responder()
FAST, SLOW = SERVER._fast, SERVER._slow
HOST = "198.51.100.7"
ASKER = of_host(HOST)
NAMES = [
    APEX,
    f"api.{APEX}",
    f"stream.{APEX}",
    f"fra.api.{APEX}",
    f"iad.api.{APEX}",
    f"_https._tcp.api.{APEX}",
]
NAMES += [f"ns1.{APEX}", f"_tcp.api.{APEX}", "example.com", "", "nf.example.org"]
NAMES += [f"{line.split()[0]}.{APEX}" for line in RECORDS if line[0] not in "@b"]
TYPES = (1, 2, 5, 6, 12, 15, 16, 28, 33, 41, 65, 97, 99, 249, 252, 253, 254, 255, 257, 65_280)
SUBNETS = st.one_of(
    st.tuples(st.just(1), st.integers(0, 32), st.binary(min_size=4, max_size=4)),
    st.tuples(st.just(2), st.integers(0, 128), st.binary(min_size=16, max_size=16)),
)


def labels(name: str) -> bytes:
    return b"".join(bytes([len(part)]) + part.encode() for part in name.split(".") if part) + b"\0"


@st.composite
def names(draw) -> bytes:
    known = labels(draw(st.sampled_from(NAMES)))
    extra = draw(st.lists(st.binary(min_size=1, max_size=20), max_size=2))
    name = b"".join(bytes([len(label)]) + label for label in extra) + known
    upper = draw(st.integers(0, 2**20))
    return bytes(c - 32 if 97 <= c <= 122 and upper >> at % 20 & 1 else c for at, c in enumerate(name))


@st.composite
def opts(draw) -> bytes:
    options = b""
    if draw(st.booleans()):
        family, bits, address = draw(SUBNETS)
        kept = bytearray(address[: (bits + 7) // 8])
        if bits % 8:
            kept[-1] &= 0xFF00 >> bits % 8 & 0xFF
        options += b"\0\x08" + (4 + len(kept)).to_bytes(2) + family.to_bytes(2) + bytes([bits, 0]) + kept
    if draw(st.booleans()):
        other = draw(st.binary(max_size=16))
        options += b"\xfd\xe9" + len(other).to_bytes(2) + other
    payload, do = draw(st.integers(0, 65_535)), draw(st.sampled_from((b"\0\0", b"\x80\0", b"\x40\1")))
    return b"\0\0\x29" + payload.to_bytes(2) + b"\0\0" + do + len(options).to_bytes(2) + options


@st.composite
def questions(draw) -> bytes:
    kind = draw(st.sampled_from(TYPES)).to_bytes(2)
    class_ = draw(st.sampled_from((b"\0\1", b"\0\1", b"\0\1", b"\0\3", b"\0\xff")))
    opt = draw(st.one_of(st.just(b""), opts()))
    flags = draw(st.sampled_from((b"\0\0", b"\1\0", b"\1\x20", b"\0\x10")))
    header = draw(st.binary(min_size=2, max_size=2)) + flags + b"\0\1\0\0\0\0\0" + bytes([bool(opt)])
    return header + draw(names()) + kind + class_ + opt


def read(data: bytes):
    """All that an answer says; dnspython may take a name's capitals from another place, and records' order."""
    message = dns.message.from_wire(data)
    sections = [
        sorted(line for rrset in part for line in rrset.to_text().lower().split("\n"))
        for part in message.sections
    ]
    options = [option.to_text() for option in message.options]
    return message.id, message.flags, message.edns, message.payload, message.ednsflags, options, sections


@given(questions(), st.sampled_from((None, 65_535)))
@settings(max_examples=count(150, 30_000))
def test_what_the_fast_path_says_is_what_dnspython_says(query, limit):
    fast = FAST.answer(query, ASKER, limit)
    if fast is not None:
        slow = SLOW.answer(query, ASKER, limit)
        assert read(fast) == read(slow)
        assert dns.message.from_wire(fast).question[0] == dns.message.from_wire(query).question[0]


def test_the_ordinary_questions_are_the_fast_paths():
    """The property above would hold for a fast path that answers nothing."""
    for name in (APEX, f"api.{APEX}", f"no.{APEX}", "example.com"):
        for kind in (1, 2, 6, 16, 28, 33, 65, 255):
            query = b"\1\2\0\0\0\1\0\0\0\0\0\0" + labels(name) + kind.to_bytes(2) + b"\0\1"
            assert FAST.answer(query, ASKER, None) is not None


def hostile(rng: random.Random, query: bytes) -> bytes:
    """A question with bytes changed, cut, doubled, or none of it."""
    data = bytearray(query)
    for _ in range(rng.choice((0, 1, 1, 2, 3, 8))):
        what, at = rng.randrange(5), rng.randrange(len(data) + 1)
        if what == 0 and at < len(data):
            data[at] = rng.choice((0, 1, 0x0C, 0x3F, 0x40, 0xC0, 0xFF, rng.randrange(256)))
        elif what == 1:
            del data[at:]
        elif what == 2:
            data[at:at] = rng.randbytes(rng.randrange(20))
        elif what == 3:
            data += data[rng.randrange(len(data) + 1) :]
        else:
            data[at : at + 2] = rng.randrange(65_536).to_bytes(2)
    return bytes(data[:4096])


SEEDS = [
    b"\1\2\0\0\0\1\0\0\0\0\0\1"
    + labels(f"api.{APEX}")
    + b"\0\1\0\1"
    + b"\0\0\x29\4\xd0\0\0\x80\0\0\x0b\0\x08\0\7\0\1\x18\0\x0a\2\2",
    b"\1\2\1\0\0\1\0\0\0\0\0\1" + labels(f"big.{APEX}") + b"\0\x10\0\1" + b"\0\0\x29\xff\xff\0\0\0\0\0\0",
    b"\1\2\1\0\0\1\0\0\0\0\0\0" + labels(f"no.such.{APEX}") + b"\0\xff\0\1",
    b"\1\2\1\0\0\1\0\0\0\0\0\0" + labels(f"chain.{APEX}") + b"\0\1\0\1",
    b"\1\2\x28\0\0\1\0\0\0\1\0\0" + labels(APEX) + b"\0\6\0\1\xc0\x0c\0\1\0\1\0\0\0\1\0\4\x01\2\3\4",
    b"\1\2\0\0\0\1\0\0\0\0\0\2"
    + labels(APEX)
    + b"\0\6\0\1\xc0\x0c\0\xfa\0\xff\0\0\0\0\0\x20"
    + b"\3abc\0" * 8,
    b"\1\2\0\0\xff\xff\xff\xff\xff\xff\xff\xff" + b"\xc0\x0c" * 200,
    b"\1\2\0\0\0\1\0\0\0\0\0\0" + b"\1a" * 2000 + b"\0\0\1\0\1",
]


def test_hostile_bytes_never_crash_it_and_never_get_a_long_answer():
    """Every answer is readable, repeats the identity, and is no longer than the client's payload allows."""
    rng = random.Random(9)
    for number in range(count(2_000, 1_000_000)):
        query = hostile(rng, SEEDS[number % len(SEEDS)])
        answer = SERVER.datagram(query, HOST, float(number))
        if not answer:
            continue
        assert answer[:2] == query[:2]
        assert answer[2] & 0x80
        assert len(answer) <= 1232
        if b"\0\x29" not in query:
            assert len(answer) <= 512
        assert len(truncated(query)) <= len(query)
        dns.message.from_wire(answer)
