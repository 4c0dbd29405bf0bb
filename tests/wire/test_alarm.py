"""A deadline that passes while the whole process stands still is nobody's fault yet."""

import asyncio
import time

from wire.alarm import ASLEEP_S, Alarm


async def test_it_rings_once_and_not_before_its_time():
    rung = []
    alarm = Alarm(lambda: rung.append(asyncio.get_running_loop().time()))
    due = asyncio.get_running_loop().time() + 0.05
    alarm.set(60.0)
    alarm.set(0.05)
    async with asyncio.timeout(60):
        while not rung:  # noqa: ASYNC110 - an alarm sends no event
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)

    assert len(rung) == 1
    assert rung[0] >= due - 0.002


async def test_what_came_while_the_process_stood_still_is_read_first():
    rung = []
    alarm = Alarm(lambda: rung.append(1))
    alarm.set(0.05)
    time.sleep(0.05 + 3 * ASLEEP_S)  # noqa: ASYNC251 - the very point
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not rung
    alarm.set(None)  # the answer was there
    await asyncio.sleep(0.5)

    assert not rung


async def test_and_then_it_rings_all_the_same():
    rung = asyncio.Event()
    Alarm(rung.set).set(0.05)
    time.sleep(0.05 + 3 * ASLEEP_S)  # noqa: ASYNC251 - the very point

    await asyncio.wait_for(rung.wait(), 60)
