"""Requests that wait a moment for a connection: first come, first served; nobody waits for what is not freed."""

import asyncio

from wire.upstreams.brief import LOOKS, Brief


class Asked:
    """One that waits."""

    def __init__(self):
        self.got = None
        self.told = asyncio.Event()

    def go(self, upstream):
        """It has one."""
        self.got = upstream
        self.told.set()

    def give_up(self):
        """It has none."""
        self.told.set()


def waiting(brief, num):
    """So many that wait."""
    asked = [Asked() for _ in range(num)]
    for each in asked:
        brief.join(each)
    return asked


async def test_what_is_freed_goes_to_who_has_waited_longest():
    brief = Brief()
    first, second, third = waiting(brief, 3)
    brief.leave(second)
    assert brief.give("a")
    assert brief.give("b")
    assert not brief.give("c")
    assert (first.got, second.got, third.got) == ("a", None, "b")
    assert not second.told.is_set()


async def test_nobody_waits_where_none_is_freed():
    asked = waiting(Brief(), 5)
    for each in asked:
        await each.told.wait()
    assert {each.got for each in asked} == {None}


async def test_as_many_wait_as_the_pace_serves_soon_and_one_always_gives_up():
    brief = Brief()
    asked = waiting(brief, 20)
    brief.give("a")
    brief.give("b")
    await asked[2].told.wait()  # the longest of those that wait still

    assert len(brief) == 2 * LOOKS
    assert all(each.told.is_set() for each in asked[: -2 * LOOKS])
    for at in range(2 * LOOKS - 1):
        brief.give(at)
    await asked[-1].told.wait()
    assert [each.got for each in asked[-2 * LOOKS :]] == [*range(2 * LOOKS - 1), None]


async def test_the_next_one_is_looked_after_too():
    brief = Brief()
    for _ in range(2):
        [alone] = waiting(brief, 1)
        await alone.told.wait()
    assert not brief
