"""The role as a real process, asked by dnspython's own resolver over UDP and TCP, and told by sealed datagrams."""

import asyncio
import socket
import time

import dns.asyncquery
import dns.asyncresolver
import dns.flags
import dns.message
import dns.rdatatype
import pytest

from deploy.forks.link import ForkLink
from deploy.forks.role import RoleProcess
from deploy.trust import secrets
from edge.dns import challenge, report
from edge.dns.client import of_host
from edge.dns.sealed import Kind, Sealed, seal
from tests.edge.dns.zones import question

TOML = """
[platform]
home = "iad"
secrets = "secrets"

[regions.iad]
gateway = "127.0.0.1:1"
store = "http://127.0.0.1:2"
nodes = []
public_key = "00"

[dns]
zone = "nf.example"
ttl_s = 1
answers_per_s = 1000
records = ['big TXT "{long}"', 'big TXT "{long}."', 'big TXT "{long}.."']

[dns.servers.ns1]
listen = ["127.0.0.1:{port}", "[::1]:{port}"]
feed = "127.0.0.1:{feed}"

[dns.pops.fra]
addresses = ["192.0.2.1", "2001:db8::1"]
near = ["127.0.0.0/24"]

[dns.pops.iad]
addresses = ["192.0.2.2"]
near = ["10.2.2.0/24"]
"""
WAIT_S = 30.0


def free_port() -> int:
    """Free on both, and on both families."""
    with socket.socket(socket.AF_INET6) as tcp, socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as udp:
        tcp.bind(("::", 0))
        udp.bind(("::", tcp.getsockname()[1]))
        return tcp.getsockname()[1]


class Server:
    """A running name server, its resolver, and the voice of an edge."""

    def __init__(self, folder) -> None:
        self.port, self.feed = free_port(), free_port()
        self.toml = folder / "nearfield.toml"
        self.toml.write_text(TOML.format(port=self.port, feed=self.feed, long="x" * 250))
        self._key = secrets.dns_key(secrets.make_root_key(folder / "secrets"))
        self.forks = ForkLink(folder / "forks.log")
        self.process = RoleProcess(self.forks, "dns", "ns1", self.toml, folder / "dns.log")
        self.resolver = dns.asyncresolver.Resolver(configure=False)
        self.resolver.nameservers, self.resolver.port = ["127.0.0.1"], self.port
        self.resolver.lifetime = WAIT_S

    def tell(self, kind: Kind, sender: str, payload: bytes) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(
                seal(Sealed(kind, sender, payload), time.time_ns(), self._key), ("127.0.0.1", self.feed)
            )

    async def until(self, name: str, kind: str, wanted: list[str], **told: bool) -> None:
        """Until the answer is `wanted`, while the POPs named in `told` say each time whether they drain."""
        async with asyncio.timeout(WAIT_S):
            while await self.asked(name, kind) != wanted:
                for pop, draining in told.items():
                    self.tell(Kind.REPORT, pop, report.encode(report.Report(draining)))
                await asyncio.sleep(0.05)

    async def asked(self, name: str, kind: str, **how) -> list[str]:
        answer = await self.resolver.resolve(name, kind, raise_on_no_answer=False, search=False, **how)
        return sorted(rdata.to_text() for rdata in answer)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("dns")


@pytest.fixture
async def server(folder):
    made = Server(folder)
    await made.process.start()
    await made.process.wait_ready(WAIT_S)
    yield made
    await made.process.stop(WAIT_S)
    await made.forks.close()


async def test_a_resolver_is_answered_over_udp_and_tcp_and_pops_come_and_go(server):
    """One process: records, truncation, several questions a connection, health, round trips, a certificate's token."""
    assert await server.asked("api.nf.example", "A") == ["192.0.2.1"]
    assert await server.asked("api.nf.example", "AAAA", tcp=True) == ["2001:db8::1"]
    assert len(await server.asked("api.nf.example", "HTTPS")) == 2
    assert len(await server.asked("big.nf.example", "TXT")) == 3  # truncated, and asked again over TCP
    over_six = await dns.asyncquery.udp(
        dns.message.make_query("nf.example", "NS"), "::1", WAIT_S, server.port
    )
    assert over_six.answer[0][0].to_text() == "ns1.nf.example."
    with pytest.raises(dns.asyncresolver.NXDOMAIN):
        await server.asked("none.nf.example", "A")

    await pipelined(server)
    await server.until("api.nf.example", "A", ["192.0.2.2"], fra=True, iad=False)
    await server.until("api.nf.example", "A", ["192.0.2.1"], fra=False, iad=False)
    rtts = ((of_host("127.0.0.1"), 90_000),), ((of_host("127.0.0.1"), 4_000),)
    for pop, rtt in zip(("fra", "iad"), rtts, strict=True):
        server.tell(Kind.REPORT, pop, report.encode(report.Report(False, rtt)))
    await server.until("api.nf.example", "A", ["192.0.2.2"], iad=False, fra=False)

    name = "_acme-challenge.api.nf.example"
    server.tell(Kind.CHALLENGE, "acme", challenge.encode(challenge.Challenge(name, ("token-1", "token-2"))))
    await appears(server, name)
    assert await server.asked(name, "TXT") == ['"token-1"', '"token-2"']


async def appears(server, name: str) -> None:
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                await server.asked(name, "TXT")
            except dns.asyncresolver.NXDOMAIN:
                await asyncio.sleep(0.05)
            else:
                return


async def pipelined(server) -> None:
    """Questions in pieces of any size, several at once; what is too long ends the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    one = question("api.nf.example", "A")
    wire = (len(one).to_bytes(2) + one) * 20
    for at in range(0, len(wire), 37):
        writer.write(wire[at : at + 37])
        await writer.drain()
        await asyncio.sleep(0)
    async with asyncio.timeout(WAIT_S):
        for _ in range(20):
            size = int.from_bytes(await reader.readexactly(2))
            assert dns.message.from_wire(await reader.readexactly(size)).answer
        writer.write(b"\xff\xff")
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await reader.readexactly(1)
    writer.close()
