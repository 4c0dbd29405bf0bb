"""Requests on one engine's link: orders out, each answer to the request that waits for it.

One task reads the link (`EngineCalls.read`); each request has one queue for all its sequences. When the engine
is lost, each request that waits gets one refusal and nothing more.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol, Self

from inference.link import LinkError
from inference.usage.meter import cost_of
from inference.workers.entry.entrance import Entrance
from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from inference.link import Message
    from inference.usage.entry import Entry
    from inference.usage.node_usage import EngineUsage

_ENDS = frozenset({"done", "failed", "vectors"})
_ANSWERS = _ENDS | {"tokens"}
_STATUS: dict[str, tuple[int, str]] = {
    "bad_request": (400, "invalid_request_error"),
    "bad_grammar": (400, "invalid_request_error"),
    "context_length_exceeded": (400, "invalid_request_error"),
    "poisoned": (400, "invalid_request_error"),
    "overloaded": (429, "rate_limit_error"),
    "stopping": (503, "server_error"),
    "cancelled": (503, "server_error"),
}
"""Codes of an engine that are the request's fault or pass by themselves; any other is ours, 500."""


class Link(Protocol):
    """The node's end of a link (`inference.link.NodeLink`)."""

    async def send(self, message: Message) -> None:
        """Write one message; raises LinkError when the engine is gone."""

    def messages(self) -> AsyncIterator[Message]:
        """Each message; ends with the engine."""

    async def close(self) -> None:
        """Close our end."""


def worker_lost(cause: str = "") -> Refusal:
    """What a request gets when its engine ended under it; `cause` if it is known."""
    why = f" ({cause})" if cause else ""
    message = (
        f"The worker that served this request ended{why}. Nothing is wrong with the request: send it again."
    )
    return Refusal(503, "worker_lost", message, "server_error", retry_after_s=1)


class Call:
    """One request's sequences on the engine, in the order they were asked for.

    Use as a context manager: leaving it cancels on the engine whatever has not ended.
    """

    __slots__ = ("_calls", "_open", "_queue")

    def __init__(self, calls: EngineCalls, ids: Sequence[str]) -> None:
        self._calls = calls
        self._open = dict(zip(ids, range(len(ids)), strict=True))
        self._queue: asyncio.Queue[tuple[int, Message] | Refusal] = asyncio.Queue()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for order_id in list(self._open):
            self.drop(self._open[order_id])

    def deliver(self, message: Message) -> None:
        """Called by the reader for a message with one of our ids."""
        index = self._open.get(message["id"])
        if index is None:
            return
        if message["op"] in _ENDS:
            del self._open[message["id"]]
        self._queue.put_nowait((index, message))

    def fail(self, refusal: Refusal) -> None:
        """No more messages come; `take` raises `refusal` once those that are here were taken."""
        self._open.clear()
        self._queue.put_nowait(refusal)

    async def take(self) -> list[tuple[int, Message]]:
        """The messages that are here, at least one: (number of the sequence, message).

        Raises:
            Refusal: the engine was lost, or said that a sequence failed.
        """
        found = [self._checked(await self._queue.get())]
        while not self._queue.empty():
            item = self._queue.get_nowait()
            if isinstance(item, Refusal):  # after what came before it
                self._queue.put_nowait(item)
                break
            found.append(self._checked(item))
        return found

    def drop(self, index: int) -> None:
        """This sequence is not wanted any more: the engine is told at once."""
        for order_id, number in list(self._open.items()):
            if number == index:
                del self._open[order_id]
                self._calls.forget(order_id, tell=True)

    def _checked(self, item: tuple[int, Message] | Refusal) -> tuple[int, Message]:
        if isinstance(item, Refusal):
            raise item
        if item[1]["op"] == "failed":
            raise _refusal(item[1])
        return item


class EngineCalls:
    """The requests of one engine. `on_other` gets each message that is no answer (ready, stats, fatal...)."""

    def __init__(self, link: Link, on_other: Callable[[Message], None], usage: EngineUsage) -> None:
        self._link = link
        self._usage = usage
        self._on_other = on_other
        self._calls: dict[str, Call] = {}
        self._num_orders = 0
        self._errands: set[asyncio.Task[None]] = set()
        self._lesson = asyncio.Lock()
        self._is_taught = False
        self.entrance = Entrance()
        self._stats: Message = {}
        self.on_any: Callable[[], None] = lambda: None
        """Called whenever the engine says anything."""

    @property
    def stats(self) -> Message:
        """The engine's latest figures; who waits at the entrance waits for it too."""
        waiting = self.entrance.num_waiting
        return (
            self._stats | {"waiting": int(self._stats.get("waiting") or 0) + waiting}
            if waiting
            else self._stats
        )

    @property
    def num_open(self) -> int:
        """Sequences that have not ended."""
        return len(self._calls)

    async def open(self, orders: Sequence[Message], entry: Entry | None = None) -> Call:
        """Send `orders` (without ids) and return their call. `entry`: whose usage they are.

        Raises:
            Refusal: 503 when the engine is gone.
        """
        ids = [str(self._num_orders + number) for number in range(len(orders))]
        self._num_orders += len(orders)
        call = Call(self, ids)
        self._calls.update(dict.fromkeys(ids, call))
        if entry is not None and ids:
            self._usage.sent(entry, ids)
        with_ids = [order | {"id": order_id} for order, order_id in zip(orders, ids, strict=True)]
        try:
            for order in with_ids:
                await self._link.send(order)
        except LinkError as cause:
            self.fail_all()
            raise worker_lost() from cause
        except asyncio.CancelledError:
            call.__exit__()
            raise
        return call

    async def teach(self, lesson: Callable[[], Message]) -> None:
        """Tell the engine what its tokens write, once, before the first order that needs it.

        Raises:
            Refusal: 503 when the engine is gone.
        """
        async with self._lesson:
            if not self._is_taught:
                try:
                    await self._link.send(await asyncio.to_thread(lesson))
                except LinkError as cause:
                    self.fail_all()
                    raise worker_lost() from cause
                self._is_taught = True

    async def read(self) -> None:
        """Deliver the engine's messages until its link ends; then no call is left open by the engine."""
        try:
            async for message in self._link.messages():
                self._deliver(message)
        except LinkError as cause:
            self._on_other({"op": "fatal", "message": str(cause)})

    def tell(self, message: Message) -> None:
        """Send something that nobody waits for."""
        task = asyncio.create_task(self._send(message))
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)

    def forget(self, order_id: str, *, tell: bool) -> None:
        """This sequence has ended, or is to: then the engine is told."""
        if self._calls.pop(order_id, None) is not None and tell:
            self.tell({"op": "cancel", "id": order_id})

    def fail_all(self, cause: str = "") -> None:
        """The engine is lost: each request that waits gets one error, with the cause if it is known."""
        calls, self._calls = set(self._calls.values()), {}
        for call in calls:
            call.fail(worker_lost(cause))
        self.entrance.fail_all(worker_lost(cause))

    async def close(self) -> None:
        """Close the link; a living engine drops all work and exits."""
        for task in list(self._errands):
            task.cancel()
        await self._link.close()

    def _deliver(self, message: Message) -> None:
        self.on_any()
        if message.get("op") not in _ANSWERS:
            if message.get("op") == "stats":
                self._stats = message
            elif message.get("op") == "ready":
                self.entrance.open(message)
            self._on_other(message)
            return
        if message["op"] in _ENDS:
            self._usage.ended(str(message.get("id")), cost_of(message))
        if (call := self._calls.get(str(message.get("id")))) is not None:
            if message["op"] in _ENDS:
                self.forget(message["id"], tell=False)
            call.deliver(message)

    async def _send(self, message: Message) -> None:
        try:
            await self._link.send(message)
        except LinkError:
            return  # the reader sees the end of the link and says so to everyone


def _refusal(message: Message) -> Refusal:
    code = str(message.get("code") or "engine_failed")
    status, kind = _STATUS.get(code, (500, "server_error"))
    said: Any = message.get("message")
    drained_s = float(message.get("retry_after_s") or 1.0)  # as the engine measured it
    retry_after_s = {429: drained_s, 503: 1.0}.get(status)
    return Refusal(
        status, code, str(said or "The engine could not do this."), kind, retry_after_s=retry_after_s
    )
