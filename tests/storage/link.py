"""The line between two stores, for tests: it counts what crosses, breaks, stalls, lies, and is cut."""

import asyncio
import threading
from collections import Counter

from tests.storage.stores import StoreThread
from wire import forward
from wire.dial import DialError, Pool
from wire.http.limits import Limits
from wire.serve import Server

LIMITS = Limits(target_bytes=8192, encoded_paths=True, num_headers=128)


class Link:
    """Passes requests on to `target` from a loop of its own.

    Attributes:
        seen: heads of the requests, in order.
        body_bytes: bytes of bodies of GETs that crossed, by path.
        down: nothing crosses; set it by `cut` and `mend`.
        break_after: bytes of a GET's body after which its connection breaks, each time.
        stall_after: bytes of a GET's body after which it waits until `flow` is set.
        change: what happens to each piece of a body on its way (offset in the answer, bytes) -> bytes.
        before: called with the head of each request before it is passed on.
    """

    def __init__(self, target: StoreThread) -> None:
        self.target = target
        self.seen = []
        self.body_bytes = Counter()
        self.down = False
        self.break_after = None
        self.stall_after = None
        self.flow = threading.Event()
        self.stalled = threading.Event()
        self.change = lambda at, data: data
        self.before = lambda head: None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        assert self._ready.wait(60)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def paths(self, method):
        return [head.path for head in self.seen if head.method == method]

    def cut(self) -> None:
        self.down = True
        self._call(self._pool.abort)

    def mend(self) -> None:
        self.down = False

    def stop(self) -> None:
        self.flow.set()
        self._call(self._stop.set)
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _call(self, what) -> None:
        self._loop.call_soon_threadsafe(what)

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._pool = Pool("127.0.0.1", self.target.port, max_idle=128)
        server = await Server.start(self._serve, "127.0.0.1", 0, limits=LIMITS)
        self.port = server.port
        self._ready.set()
        await self._stop.wait()
        await self._pool.close()
        await server.close()

    async def _serve(self, exchange) -> None:
        head = exchange.head
        if self.down:
            exchange.abort()
            return
        self.seen.append(head)
        await asyncio.to_thread(self.before, head)
        try:
            answer = await forward.ask(self._pool, exchange, head.headers)
        except DialError:
            exchange.abort()
            return
        async with answer:
            if head.method == "GET" and head.path != "/":
                await self._pass(exchange, answer)
            else:
                await forward.pass_back(exchange, answer)

    async def _pass(self, exchange, answer) -> None:
        head, num_bytes = answer.head, 0
        await exchange.start(head.status, head.headers, head.content_length)
        try:
            async for data in answer.chunks():
                piece = data if self.break_after is None else data[: self.break_after - num_bytes]
                self.body_bytes[exchange.head.path] += len(piece)
                await exchange.write(self.change(num_bytes, piece))
                num_bytes += len(piece)
                if self.down or (self.break_after is not None and num_bytes >= self.break_after):
                    await asyncio.sleep(0.02)  # what was sent arrives; then the connection is reset
                    exchange.abort()
                    return
                await self._stall(num_bytes)
        except DialError:
            exchange.abort()
            return
        await exchange.finish()

    async def _stall(self, num_bytes) -> None:
        if self.stall_after is not None and num_bytes >= self.stall_after and not self.flow.is_set():
            self.stalled.set()
            while not self.flow.is_set() and not self.down:  # noqa: ASYNC110 - an event of another thread
                await asyncio.sleep(0.005)
