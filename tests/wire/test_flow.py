"""A flow goes on in the callback that wakes it, and is an ordinary task from the first foreign wait on."""

import asyncio

import pytest

from wire.flow import Flow, Signal, in_task


async def from_a_callback(action):
    """Run `action()` as a callback of the loop, where no task is the current one; its result."""
    done = asyncio.get_running_loop().create_future()

    def run():
        try:
            done.set_result(action())
        except ValueError as error:
            done.set_exception(error)

    asyncio.get_running_loop().call_soon(run)
    return await done


class Steps:
    """A coroutine that notes what it does."""

    def __init__(self, *waits):
        self.seen, self.waits, self.tasks = [], waits, []

    async def run(self):
        try:
            for wait in self.waits:
                self.seen.append("wait")
                self.tasks.append(asyncio.current_task())
                await wait()
            self.seen.append("end")
        except asyncio.CancelledError:
            self.seen.append("cancelled")
            raise
        finally:
            self.seen.append("finally")


async def on(signal):
    await signal


async def test_a_flow_goes_on_before_set_returns():
    signal = Signal()
    steps = Steps(lambda: on(signal), lambda: on(signal))

    def act():
        flow = Flow(steps.run())
        flow.resume()
        seen = [list(steps.seen)]
        for _ in range(2):
            signal.set()
            seen.append(list(steps.seen))
        return seen, flow.done, flow.task

    seen, done, task = await from_a_callback(act)

    assert seen == [["wait"], ["wait", "wait"], ["wait", "wait", "end", "finally"]]
    assert done
    assert task is None


async def test_a_foreign_wait_makes_it_a_task_for_the_rest():
    signal = Signal()
    steps = Steps(lambda: on(signal), lambda: asyncio.sleep(0.001), lambda: on(signal))

    def act():
        flow = Flow(steps.run())
        flow.resume()
        signal.set()
        return flow

    flow = await from_a_callback(act)
    assert flow.task is not None
    await asyncio.sleep(0.02)
    assert steps.seen == ["wait"] * 3
    signal.set()
    await flow.task

    assert steps.seen == ["wait"] * 3 + ["end", "finally"]
    assert steps.tasks == [None, None, flow.task]


async def test_what_needs_a_task_gets_one():
    async def timed():
        await in_task()
        async with asyncio.timeout(1.0):
            await asyncio.sleep(0)

    flow = Flow(timed())
    await from_a_callback(flow.resume)
    await flow.task

    await in_task()  # in a task it is nothing


@pytest.mark.parametrize("wait", ["signal", "sleep"])
async def test_a_cancel_ends_it_where_it_waits(wait):
    signal = Signal()
    steps = Steps(lambda: on(signal) if wait == "signal" else asyncio.sleep(9))
    flow = Flow(steps.run())
    await from_a_callback(flow.resume)
    await from_a_callback(flow.cancel)
    await asyncio.sleep(0.01)

    assert steps.seen == ["wait", "cancelled", "finally"]
    assert flow.done or flow.task.cancelled()
    signal.set()  # nobody waits any more
    flow.cancel()


async def test_a_flow_never_steps_inside_somebody_elses_task():
    """Else asyncio would take that task for ours: a timeout of ours would cancel it."""
    signal = Signal()
    steps = Steps(lambda: on(signal), lambda: on(signal))
    flow = Flow(steps.run())
    flow.resume()  # this test is a task
    assert steps.seen == []
    await asyncio.sleep(0)
    assert steps.tasks == [None]
    signal.set()
    assert steps.seen == ["wait"]
    await asyncio.sleep(0)
    assert steps.seen == ["wait", "wait"]
    flow.cancel()
    await asyncio.sleep(0)

    assert steps.tasks == [None, None]
    assert steps.seen[-1] == "finally"


async def test_errors_reach_whoever_steps_it_or_its_task():
    async def fails():
        raise ValueError("broken")

    async def fails_later():
        await asyncio.sleep(0)
        raise ValueError("broken later")

    with pytest.raises(ValueError, match="broken"):
        await from_a_callback(Flow(fails()).resume)
    flow = Flow(fails_later())
    await from_a_callback(flow.resume)
    with pytest.raises(ValueError, match="broken later"):
        await flow.task


async def test_a_failed_future_is_raised_where_the_coroutine_waits():
    future = asyncio.get_running_loop().create_future()
    caught = []

    async def waits():
        try:
            await future
        except OSError as error:
            caught.append(error)

    flow = Flow(waits())
    await from_a_callback(flow.resume)
    future.set_exception(OSError("gone"))
    await flow.task

    assert [str(error) for error in caught] == ["gone"]


async def test_a_task_may_wait_for_a_signal_too():
    signal = Signal()
    task = asyncio.create_task(on(signal))
    await asyncio.sleep(0)
    signal.set()
    signal.set()

    await asyncio.wait_for(task, 30)


async def test_a_cancel_before_the_first_step_of_its_task_is_heard():
    steps = Steps(lambda: asyncio.sleep(9))

    def act():
        flow = Flow(steps.run())
        flow.resume()
        flow.cancel()
        return flow

    flow = await from_a_callback(act)
    await asyncio.gather(flow.task, return_exceptions=True)

    assert steps.seen == ["wait", "cancelled", "finally"]


async def test_a_flow_that_is_cancelled_before_its_first_step_hears_of_it():
    """Begun inside a task it takes that step in the next turn; until then somebody may give it up."""
    steps = Steps(lambda: on(Signal()), lambda: on(Signal()))
    flow = Flow(steps.run())
    flow.resume()  # this test is a task
    await from_a_callback(flow.cancel)
    await asyncio.sleep(0)

    assert steps.seen == ["wait", "cancelled", "finally"]
    assert flow.done


async def test_so_does_one_that_is_cancelled_first_of_all():
    steps = Steps(lambda: on(Signal()))
    flow = Flow(steps.run())
    await from_a_callback(flow.cancel)
    flow.resume()
    await asyncio.sleep(0)

    assert steps.seen == ["wait", "cancelled", "finally"]
