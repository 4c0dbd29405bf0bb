"""ASGI answers that follow their client: when it goes away, the work for it ends at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from starlette.types import Receive, Scope, Send

STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store",
    "x-accel-buffering": "no",
}


class Outlet:
    """Sends one response, headers first, and knows whether they are out."""

    __slots__ = ("_send", "started")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the head."""
        self.started = True
        encoded = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": encoded})

    async def write(self, data: bytes, *, last: bool = False) -> None:
        """Send a part of the body; waits while the client reads slowly."""
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})

    async def whole(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send everything."""
        await self.start(status, {**headers, "content-length": str(len(body))})
        await self.write(body, last=True)

    async def refuse(self, refusal: Refusal, headers: Mapping[str, str]) -> None:
        """Send a refusal as the whole response."""
        await self.whole(refusal.status, {**headers, **dict(refusal.headers())}, refusal.body())


class Reply(Response):
    """A response whose work runs while it is sent; `answer` is written by each kind."""

    def __init__(self) -> None:
        self.background = None

    async def answer(self, outlet: Outlet) -> None:
        """Send the response. Refusals raised before it started become one; later ones are `answer`'s own."""
        raise NotImplementedError

    async def refuse(self, outlet: Outlet, refusal: Refusal) -> None:
        """Send a refusal as the whole response."""
        await outlet.refuse(refusal, self.refusal_headers())

    def refusal_headers(self) -> dict[str, str]:
        """What a refusal says beside its error."""
        return {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs `answer` until it is done or the client is gone."""
        del scope
        if not await while_connected(receive, self._answer(Outlet(send))):
            self.left()

    def refused(self, refusal: Refusal) -> None:
        """Nothing is answered but this refusal."""

    def left(self) -> None:
        """The client went away before the answer's end."""

    async def _answer(self, outlet: Outlet) -> None:
        try:
            await self.answer(outlet)
        except Refusal as refusal:
            if outlet.started:
                raise
            self.refused(refusal)
            await self.refuse(outlet, refusal)


async def while_connected(receive: Receive, work: Coroutine[Any, Any, None]) -> bool:
    """Run `work`, and cancel it when the client goes away. Its errors are raised; a client's leaving is none.

    Whether it came to its own end.
    """
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
        await asyncio.wait({task, gone})
    if task.cancelled():
        return False
    task.result()
    return True


async def _gone(receive: Receive) -> None:
    """The body was read before: what comes now is the end of the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
