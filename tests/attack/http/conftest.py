"""The real edge with an S3 door, and behind that door uvicorn, which writes down what it reads."""

import asyncio
from dataclasses import dataclass, field

import pytest

from tests.attack.http.recorder import Recorder
from tests.edge.conftest import certificate, pytest_asyncio_loop_factories, world  # noqa: F401
from tests.edge.world import World


@dataclass
class Rig:
    """`edge` as its clients see it; `recorder` is what stands behind the S3 door."""

    edge: World
    recorder: Recorder
    sentinels: int = field(default=0)

    async def connect(self, listener: str = "s3") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A bare TLS connection to a listener of the edge."""
        return await asyncio.open_connection(
            "127.0.0.1", self.edge.pools[listener].port, ssl=self.edge._tls, server_hostname="localhost"
        )

    async def sentinel(self) -> None:
        """A plain request of somebody else's, over the upstream connection used last: it must arrive as it is."""
        self.sentinels += 1
        target = f"/sentinel/{self.sentinels}"
        answer = await self.edge.pools["s3"].request("GET", target)
        assert (answer.head.status, await answer.read()) == (200, target.encode())
        last = self.recorder.reads.pop()
        assert (last.method, last.target, last.body) == (b"GET", target.encode(), b"")


@pytest.fixture
async def rig(world):  # noqa: F811
    """One edge, one region and one recorder for a test."""
    recorder = Recorder()
    port = await asyncio.to_thread(recorder.start)
    try:
        any_host = frozenset({"*"})  # else most would be refused for that alone
        edge = await world(names=("iad",), s3_upstream=f"127.0.0.1:{port}", served_hosts=any_host)
        yield Rig(edge, recorder)
    finally:
        await asyncio.to_thread(recorder.stop)
