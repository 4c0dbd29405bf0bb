"""The floor of `bench edge`: bytes handed on between two kept connections on uvloop, with no HTTP and no check at all.

`python -m bench.proxy.pump PORT UPSTREAM`. What a proxy in Python on this event loop cannot go below: one callback and
one write each way, in the kernel's calls that nginx makes too.
"""

import asyncio
import gc
import sys
from typing import cast

import uvloop

from wire.address import split_address


class Side(asyncio.Protocol):
    """One of a pair; what it hears, the other says."""

    def __init__(self, other: "Side | None" = None) -> None:
        self.other = other
        self.transport: asyncio.Transport
        self.waiting: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It may speak now."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        """Say it on the other side."""
        if self.other is None:
            self.waiting.append(data)
        else:
            self.other.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Both end together."""
        del exc
        if self.other is not None:
            self.other.transport.close()


class Client(Side):
    """Who came; its own connection upstream is made at once."""

    def __init__(self, upstream: str) -> None:
        super().__init__()
        self._upstream = split_address(upstream)
        self._joining: asyncio.Task[None]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Find the other side."""
        super().connection_made(transport)
        self._joining = asyncio.get_running_loop().create_task(self._join())

    async def _join(self) -> None:
        loop = asyncio.get_running_loop()
        _, self.other = await loop.create_connection(lambda: Side(self), *self._upstream)
        for each in self.waiting:
            self.other.transport.write(each)


async def _pump(port: int, upstream: str) -> None:
    await asyncio.get_running_loop().create_server(lambda: Client(upstream), "127.0.0.1", port)
    gc.freeze()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_pump(int(sys.argv[1]), sys.argv[2]))
