"""A SIMULATED wide-area link: a TCP relay that adds distance between two programs of one machine.

Bytes arrive half a round trip after they were read, in both directions; a new connection costs one round trip
before its first byte (the handshake that the kernel already did on loopback). Many bytes are in flight at
once, as on a real link, so the delay by itself takes no throughput away; an optional rate does. It has no
loss and no jitter, and every figure taken through it must be labelled simulated.
"""

import asyncio
from collections import deque
from enum import Enum, auto
from typing import cast

WINDOW_BYTES = 64 * 1024 * 1024  # in flight per direction at most: 160 ms at 3 Gbit/s


class _Ending(Enum):
    """How one side ended; it travels behind the bytes that came before it."""

    HALF = auto()  # no more bytes from here
    WHOLE = auto()
    RESET = auto()


class _Side(asyncio.Protocol):
    """One TCP connection of a relayed pair: reads here are delivered to `other` later."""

    def __init__(self, link: "WanRelay", opened: float) -> None:
        self._link = link
        self._loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.other: _Side | None = None
        self._queue: deque[tuple[float, bytes | _Ending]] = deque()  # (due in loop time, what)
        self.ended = False  # the near program sends no more
        self._num_queued_bytes = 0
        self._free_at = opened  # when the link's rate lets the next byte in
        self._timer: asyncio.TimerHandle | None = None
        self._blocked = False  # the far program reads too slowly

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self._link.sides.add(self)

    def data_received(self, data: bytes) -> None:
        self._num_queued_bytes += len(data)
        if self._num_queued_bytes > WINDOW_BYTES and self.transport is not None:
            self.transport.pause_reading()
        rate = self._link.bytes_per_s
        start = max(self._loop.time(), self._free_at)
        self._free_at = start + (len(data) / rate if rate else 0.0)
        self._deliver_at(self._free_at + self._link.rtt_s / 2, data)

    def eof_received(self) -> bool:
        self.ended = True
        self._end_at(_Ending.HALF)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._link.sides.discard(self)
        self._end_at(_Ending.WHOLE if exc is None else _Ending.RESET)

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.block(True)

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.block(False)

    def block(self, blocked: bool) -> None:
        """The far end of this direction is full (or free again)."""
        self._blocked = blocked
        if not blocked:
            self.deliver()

    def deliver(self) -> None:
        """Hand over what is due; then wait for the next."""
        self._timer = None
        target = self.other.transport if self.other is not None else None
        if target is None:
            return  # the far connection is still being made; it calls again
        while self._queue and not self._blocked and self._queue[0][0] <= self._loop.time():
            _, data = self._queue.popleft()
            if target.is_closing():
                continue
            if isinstance(data, _Ending):
                self._end(target, data)
            else:
                target.write(data)
                self._taken(len(data))
        if self._queue and not self._blocked:
            self._timer = self._loop.call_at(self._queue[0][0], self.deliver)

    def _taken(self, num_bytes: int) -> None:
        was_full = self._num_queued_bytes > WINDOW_BYTES
        self._num_queued_bytes -= num_bytes
        if was_full and self._num_queued_bytes <= WINDOW_BYTES and self.transport is not None:
            self.transport.resume_reading()

    def _end(self, target: asyncio.Transport, ending: _Ending) -> None:
        """End the far connection as this one ended; after two half ends it is whole, and must be closed."""
        if ending is _Ending.RESET:
            target.abort()
        elif ending is _Ending.WHOLE or (self.other is not None and self.other.ended):
            target.close()
        else:
            target.write_eof()

    def _end_at(self, ending: _Ending) -> None:
        self._deliver_at(max(self._loop.time(), self._free_at) + self._link.rtt_s / 2, ending)

    def _deliver_at(self, due: float, data: bytes | _Ending) -> None:
        self._queue.append((due, data))
        if self._timer is None:
            self._timer = self._loop.call_at(due, self.deliver)


class WanRelay:
    """A relay on `port` to one address, `rtt_s` seconds away. Simulated."""

    def __init__(self, address: tuple[str, int], rtt_s: float, bytes_per_s: float | None) -> None:
        self.rtt_s = rtt_s
        self.bytes_per_s = bytes_per_s
        self.port = 0
        self.sides: set[_Side] = set()
        self._address = address
        self._listener: asyncio.Server | None = None
        self._dials: set[asyncio.Task[None]] = set()

    @classmethod
    async def start(
        cls, host: str, port: int, *, target: tuple[str, int], rtt_ms: float, bytes_per_s: float | None = None
    ) -> "WanRelay":
        """Listen on `host`:`port` (0: any) for programs that are `rtt_ms` away from `target`.

        At most `bytes_per_s` go each way. Raises OSError if the address cannot be bound.
        """
        relay = cls(target, rtt_ms / 1000, bytes_per_s)
        listener = await asyncio.get_running_loop().create_server(relay._accept, host, port)
        relay._listener = listener
        relay.port = listener.sockets[0].getsockname()[1]
        return relay

    async def close(self) -> None:
        """Stop relaying and reset every connection."""
        if self._listener is not None:
            self._listener.close()
        for dial in tuple(self._dials):
            dial.cancel()
        for side in tuple(self.sides):
            if side.transport is not None:
                side.transport.abort()
        await asyncio.gather(*self._dials, return_exceptions=True)

    def _accept(self) -> _Side:
        """A program connected: its bytes start after the handshake that a real distance would have cost."""
        loop = asyncio.get_running_loop()
        near = _Side(self, loop.time() + self.rtt_s)
        task = loop.create_task(self._dial(near))
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)
        return near

    async def _dial(self, near: _Side) -> None:
        """Connect when the SYN would arrive; a refusal is a reset one round trip after it left."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self.rtt_s / 2)
        far = _Side(self, loop.time())
        far.other, near.other = near, far
        try:
            await loop.create_connection(lambda: far, *self._address)
        except OSError:
            await asyncio.sleep(self.rtt_s / 2)
            if near.transport is not None:
                near.transport.abort()
            return
        near.deliver()
