"""A real edge says to its name servers that it lives, how far its clients are, and that it drains."""

import asyncio
import socket
import time

import pytest

from edge.dns import report
from edge.dns.client import of_host
from edge.dns.sealed import Opener, Sealed
from edge.dns.voice import Voice, VoiceSettings

KEY = b"k" * 32
WAIT_S = 60.0


class Listener:
    """The feed of a name server that only listens."""

    def __init__(self) -> None:
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._sock.bind(("127.0.0.1", 0))
        self.address = self._sock.getsockname()
        self._opener = Opener(KEY)

    async def until(self, wanted) -> tuple[Sealed, report.Report]:
        async with asyncio.timeout(WAIT_S):
            while True:
                datagram = await asyncio.to_thread(self._receive)
                sealed = self._opener.open(datagram, time.time_ns())
                said = report.decode(sealed.payload)
                if wanted(said):
                    return sealed, said

    def _receive(self) -> bytes:
        self._sock.settimeout(WAIT_S)
        return self._sock.recv(2000)

    def close(self) -> None:
        self._sock.close()


@pytest.fixture
def listener():
    made = Listener()
    yield made
    made.close()


async def test_an_edge_tells_that_it_lives_how_far_its_clients_are_and_that_it_drains(
    world, listener, tmp_path
):
    """One that is told to stop says so first, while it still answers what it has."""
    drain = tmp_path / "drain"
    edge = await world(voice=VoiceSettings("fra", (listener.address,), KEY, drain, period_s=0.05))
    sealed, said = await listener.until(lambda said: said.rtt_us)

    assert sealed.sender.startswith("fra/")
    ((client, rtt_us),) = said.rtt_us
    assert client == of_host("127.0.0.1")
    assert 0 < rtt_us < 10_000_000
    assert not said.draining

    drain.touch()
    await listener.until(lambda said: said.draining)
    drain.unlink()
    await listener.until(lambda said: not said.draining)
    await edge.stop_edge()
    assert await listener.until(lambda said: said.draining)


async def test_a_name_server_that_cannot_be_reached_keeps_nobody_waiting(listener, tmp_path, caplog):
    """Said once in the log, however often it is tried."""
    settings = VoiceSettings("fra", (("240.0.0.1", 9), listener.address), KEY, tmp_path / "drain")
    voice = Voice(settings)
    for _ in range(3):
        voice.drain()
        await listener.until(lambda said: said.draining)

    assert sum("cannot be told" in line for line in caplog.messages) <= 1
