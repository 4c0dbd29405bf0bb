"""A handler that runs where its bytes arrive: in the callback that brought them, not one turn of the loop later.

A request that finds everything at hand needs no task of its own, and a turn of the loop between "the bytes are
here" and "somebody looks at them" costs more than most handlers do. So a Flow takes the steps of a coroutine
itself for as long as it waits for nothing but Signals. The first other thing that it awaits (a future of asyncio,
or `in_task()` before what needs a task, such as asyncio.timeout) makes it an ordinary task for the rest of its life.
"""

import asyncio
from collections.abc import Coroutine, Generator
from types import coroutine
from typing import Any

Steps = Coroutine[Any, Any, None]


class Signal:
    """One coroutine waits for it; `set()` lets that one go on, or does nothing if none waits.

    A flow goes on before `set()` returns, a task in the next turn of the loop. It may also go on unasked, so
    wait in a loop that looks at what was waited for.
    """

    __slots__ = ("_waiter",)

    def __init__(self) -> None:
        self._waiter: Flow | asyncio.Future[None] | None = None

    def set(self) -> None:
        """Let the one who waits go on."""
        waiter, self._waiter = self._waiter, None
        if isinstance(waiter, Flow):
            waiter.resume()
        elif waiter is not None and not waiter.done():
            waiter.set_result(None)

    def wake(self, flow: "Flow") -> None:
        """(The flow that was handed this signal) it is the one that waits."""
        self._waiter = flow

    def __await__(self) -> Generator[Any, None, None]:
        try:
            if asyncio.current_task() is None:
                yield self
            else:
                future = self._waiter = asyncio.get_running_loop().create_future()
                yield from future
        finally:
            self._waiter = None


@coroutine
def in_task() -> Generator[Any, None, None]:
    """Go on inside a task of asyncio: await it before asyncio.timeout and whatever else asks for the current one."""
    if asyncio.current_task() is None:
        yield _TASK_NEEDED


_TASK_NEEDED = object()


class Flow:
    """One coroutine under way. `task` is set once it became one, `done` once it ended."""

    __slots__ = ("_has_begun", "_is_stepping", "_steps", "done", "task")

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._has_begun = self._is_stepping = False
        self.task: asyncio.Task[None] | None = None
        self.done = False

    def resume(self, error: BaseException | None = None) -> None:
        """Run to the next wait; with `error`, raise that where the coroutine waits.

        Never inside another task, which asyncio would take for ours: then it runs in the next turn of the loop.
        """
        if asyncio.current_task() is None:
            self._step(error)
        else:
            asyncio.get_running_loop().call_soon(self._step, error)

    def cancel(self) -> None:
        """End it with CancelledError where it waits. While it takes a step it is left to itself."""
        if self.task is not None:
            self.task.cancel()
        elif not self._is_stepping:
            self.resume(asyncio.CancelledError())

    def _step(self, error: BaseException | None) -> None:
        if self.task is not None and error is not None:
            self.task.cancel()
        if self.done or self.task is not None:
            return
        self._is_stepping = self.done = True  # unless it comes to another wait
        try:
            awaited = self._steps.send(None) if error is None or not self._has_begun else None
            self._has_begun = True
            if error is not None:  # never before it has begun: it would hear nothing of it
                awaited = self._steps.throw(error)
        except (StopIteration, asyncio.CancelledError):
            return
        finally:
            self._is_stepping = False
        self.done = False
        self._wait_for(awaited)

    def _wait_for(self, awaited: object) -> None:
        if isinstance(awaited, Signal):
            awaited.wake(self)
        else:
            self.task = asyncio.get_running_loop().create_task(_Rest(self._steps, awaited))


class _Rest(Coroutine[Any, Any, None]):
    """The rest of a coroutine, for a task: it begins with the wait for `awaited`.

    Not an async function, because a cancel may come before the task's first step, and a coroutine that has not
    begun hears nothing of it: this one passes it on to where the handler waits.
    """

    def __init__(self, steps: Steps, awaited: object) -> None:
        self._steps = steps
        self._awaited = awaited

    def send(self, value: Any) -> Any:
        """One step of the task."""
        awaited, self._awaited = self._awaited, _TASK_NEEDED
        return self._steps.send(value) if awaited is _TASK_NEEDED else awaited

    def throw(self, error: Any, *more: Any) -> Any:
        """One step of the task that begins with an error: its cancel, or what an awaited future raised."""
        self._awaited = _TASK_NEEDED
        return self._steps.throw(error, *more)

    def close(self) -> None:
        """The loop ends."""
        self._steps.close()

    def __await__(self) -> Generator[Any, None, None]:
        raise RuntimeError("only a task runs the rest of a flow")
