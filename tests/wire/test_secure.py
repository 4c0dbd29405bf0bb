"""TLS of our own driving: whatever the network makes of the records, what was said arrives, in order, or it ends."""

import asyncio
import gc
import ssl
import weakref
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.wire.test_serve import hello, serving, until
from wire.secured.secure import SLICE_BYTES, Secured, promptly


class Below(asyncio.Transport):
    """A transport that only remembers."""

    def __init__(self):
        super().__init__()
        self.wire, self.acts = b"", []

    def write(self, data):
        self.wire += bytes(data)

    def close(self):
        self.acts.append("close")

    def abort(self):
        self.acts.append("abort")

    def is_closing(self):
        return bool(self.acts)


class Above(asyncio.Protocol):
    """Who speaks over it; hears all."""

    def __init__(self):
        self.heard, self.told = [], []

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.heard.append(data)

    def eof_received(self):
        self.told.append("eof")

    def connection_lost(self, exc):
        self.told.append(exc)


class Side:
    """One end."""

    def __init__(self, context, name=None):
        self.above, self.below = Above(), Below()
        self.secured = Secured(lambda: self.above, context, name)
        self.secured.connection_made(self.below)

    def hear(self, other, cuts=()):
        """All that `other` has sent, in pieces that end at `cuts`."""
        data, other.below.wire = other.below.wire, b""
        for start, end in pairwise([0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]):
            if end > start:
                self.secured.data_received(data[start:end])


def sides(tls, cuts=()):
    """A server and a client that have shaken hands."""
    server, client = Side(tls[0]), Side(tls[1], "localhost")
    for _ in range(3):
        server.hear(client, cuts)
        client.hear(server, cuts)
    return server, client


PIECES = st.lists(st.binary(max_size=300) | st.integers(1, 3 * SLICE_BYTES).map(bytes), max_size=6)
CUTS = st.lists(st.integers(1, 4 * SLICE_BYTES) | st.integers(1, 2000), max_size=8)
WAYS = st.sampled_from(["write", "writelines"])


@given(PIECES, CUTS, CUTS, st.lists(WAYS, min_size=6, max_size=6), st.booleans())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_what_was_said_arrives_in_order_wherever_the_network_cuts_it(tls, pieces, early, late, ways, upwards):
    async def talk():
        server, client = sides(tls, early)
        speaker, hearer = (client, server) if upwards else (server, client)
        for piece, way in zip(pieces, ways, strict=False):
            say = getattr(speaker.secured, way)
            say([piece[:7], piece[7:]] if way == "writelines" else piece)
        hearer.hear(speaker, late)
        assert b"".join(hearer.above.heard) == b"".join(pieces)
        assert all(hearer.above.heard), "no news of nothing"
        speaker.secured.close()
        hearer.hear(speaker, late)
        assert (hearer.above.told, hearer.below.acts) == (["eof"], ["close"])

    asyncio.run(talk())


async def test_the_first_words_may_come_with_the_end_of_the_handshake(tls):
    server, client = Side(tls[0]), Side(tls[1], "localhost")
    server.hear(client)
    client.hear(server)
    client.secured.write(b"GET")
    server.hear(client)  # Finished and data in one piece
    assert server.above.heard == [b"GET"]
    assert await server.secured.handshake() is server.above


async def test_a_peer_that_speaks_no_tls_is_told_and_left(tls):
    server = Side(tls[0])
    server.secured.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    with pytest.raises(ssl.SSLError):
        await server.secured.handshake()
    assert server.below.acts == ["close"]
    server.secured.connection_lost(None)
    assert server.above.told == [], "who was never made hears nothing"


async def test_a_client_that_does_not_know_the_authority_says_so(tls):
    server, client = Side(tls[0]), Side(ssl.create_default_context(), "localhost")
    server.hear(client)
    client.hear(server)
    with pytest.raises(ssl.SSLCertVerificationError):
        await client.secured.handshake()
    server.hear(client)  # the alert
    with pytest.raises(ssl.SSLError, match="UNKNOWN_CA"):
        await server.secured.handshake()


async def test_a_connection_that_ends_in_the_handshake(tls):
    server = Side(tls[0])
    server.secured.connection_lost(None)
    with pytest.raises(ConnectionResetError):
        await server.secured.handshake()


async def test_a_forged_record_ends_the_connection(tls):
    server, client = sides(tls)
    client.secured.write(b"pay 100")
    wire = bytearray(client.below.wire)
    wire[-1] ^= 1
    server.secured.data_received(bytes(wire))
    assert (server.above.heard, server.below.acts) == ([], ["abort"])
    assert server.below.wire, "an alert"
    server.secured.connection_lost(None)
    assert isinstance(server.above.told[0], ssl.SSLError)


async def test_after_the_end_nothing_is_said_or_heard(tls):
    server, client = sides(tls)
    client.secured.write(b"late")
    server.secured.close()
    sent = server.below.wire
    server.secured.write(b"more")
    server.secured.say(b"more")
    server.secured.close()
    server.hear(client)
    server.secured.eof_received()
    assert (server.above.heard, server.above.told, server.below.wire) == ([], [], sent)
    assert server.below.acts == ["close"]


async def test_an_end_without_a_word_of_tls_is_an_end(tls):
    server, _ = sides(tls)
    assert server.secured.eof_received() is False
    assert (server.above.told, server.below.acts) == (["eof"], ["close"])


async def test_bytes_leave_within_the_call(tls):
    """Over real sockets: `say` does not wait for the loop's turn, and never overtakes."""
    loop, taken = asyncio.get_running_loop(), []
    server = await loop.create_server(
        lambda: taken.append(Secured(Above, tls[0])) or taken[-1], "127.0.0.1", 0
    )
    address = server.sockets[0].getsockname()
    _, client = await loop.create_connection(lambda: Secured(Above, tls[1], "localhost"), *address)
    async with asyncio.timeout(30):
        above, heard = await taken[0].handshake(), await client.handshake()
        say = promptly(above.transport)
        above.transport.write(b"first, ")
        for number in range(2000):
            say(b"%04d " % number + bytes(4000))
        assert above.transport.get_write_buffer_size() > 0, "the peer has not read"
        while sum(map(len, heard.heard)) < 7 + 2000 * 4005:  # noqa: ASYNC110 - `Above` is plain on purpose
            await asyncio.sleep(0)
    said = b"".join(heard.heard)
    assert said == b"first, " + b"".join(b"%04d " % n + bytes(4000) for n in range(2000))
    for each in (taken[0], client):
        each.abort()
    server.close()


async def test_one_word_is_on_the_wire_at_once(tls):
    """A peer of the plain `ssl` module has it before the loop has another turn."""
    loop, taken = asyncio.get_running_loop(), []
    server = await loop.create_server(
        lambda: taken.append(Secured(Above, tls[0])) or taken[-1], "127.0.0.1", 0
    )
    peer, own = ssl.MemoryBIO(), ssl.MemoryBIO()
    speaker = tls[1].wrap_bio(peer, own, server_hostname="localhost")
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    async with asyncio.timeout(30):
        while True:
            try:
                speaker.do_handshake()
                break
            except ssl.SSLWantReadError:
                writer.write(own.read())
                peer.write(await reader.read(1 << 16))
        writer.write(own.read())
        above = await taken[0].handshake()
        sock = writer.get_extra_info("socket")
        writer.transport.pause_reading()
        promptly(above.transport)(b"now")
        peer.write(sock.dup().recv(1 << 16))
    assert speaker.read(16) == b"now"
    writer.close()
    taken[0].abort()
    server.close()


async def test_who_is_lost_behind_its_handshake_is_told_so(tls):
    for fault in (None, ssl.SSLError("a certificate is refused")):
        server, _ = sides(tls)
        server.secured._fault = fault
        server.secured.connection_lost(None)
        assert server.above.told == [fault]
        with pytest.raises(OSError, match="refused" if fault else "behind the handshake"):
            await server.secured.handshake()
        server.secured.pause_writing()
        server.secured.data_received(b"late")
        assert server.above.heard == []


@pytest.mark.parametrize(
    "said", [b"", b"GET / HTTP/1.1\r\nHost: h\r\n", b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"]
)
async def test_nothing_of_a_connection_that_is_over_waits_for_the_collector(tls, said):
    """It is a rare guest, and what OpenSSL has of three thousand was 80 MB until it came."""
    async with serving(hello, tls=tls[0]) as server:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", server.port, ssl=tls[1], server_hostname="localhost"
        )
        writer.write(said)
        await until(lambda: server.num_connections == 1)
        if said.endswith(b"\r\n\r\n"):
            await reader.readuntil(b"\r\n\r\n")
        [connection] = server._roster.members
        left = [weakref.ref(connection), weakref.ref(connection._transport)]
        del connection
        gc.disable()
        try:
            writer.transport.abort()
            await until(lambda: not any(each() for each in left))
        finally:
            gc.enable()
