"""A second try goes out where it may, not before it is worth it, and not too often."""

import asyncio

import pytest

from tests.wire.test_dial import upstream
from wire.ways.hedge import BURST, LEAST_DELAY_S, LEAST_SEEN, TENTH, Hedge, first_of
from wire.ways.way import Way


def known(took_s=0.02, num=100):
    hedge = Hedge()
    for _ in range(num):
        hedge.answered(took_s)
    return hedge


def test_it_waits_for_what_19_of_20_answers_took():
    hedge = Hedge()
    for n in range(LEAST_SEEN - 1):
        hedge.answered(n / 100)
    assert hedge.delay_s() is None
    hedge.answered(0.5)
    assert hedge.delay_s() == 0.5
    assert known(0.0).delay_s() == LEAST_DELAY_S


def test_one_in_ten_and_a_few_in_a_row():
    hedge = known()
    assert [hedge.take() for _ in range(5)] == [True] * int(BURST) + [False] * (5 - int(BURST))
    for _ in range(TENTH - 1):
        hedge.answered(0.02)
    assert not hedge.take()
    hedge.answered(0.02)
    hedge.answered(0.02)
    assert hedge.take()


def says(value, after_s=0.0, log=None):
    async def ask():
        if log is not None:
            log.append(value)
        try:
            await asyncio.sleep(after_s)
        except asyncio.CancelledError:
            if log is not None:
                log.append(f"{value} was dropped")
            raise
        if isinstance(value, Exception):
            raise value
        return value

    return ask


async def test_a_quick_first_has_no_second():
    log = []
    assert await first_of(says("first", 0.0, log), says("second", 0.0, log), known(1.0)) == "first"
    assert log == ["first"]


async def test_beside_one_that_hangs_the_second_answers_and_the_first_is_dropped():
    log = []
    assert await first_of(says("first", 100, log), says("second", 0.0, log), known()) == "second"
    assert log == ["first", "second", "first was dropped"]


async def test_a_first_that_fails_later_is_no_failure_if_the_second_answers():
    error = OSError("gone")
    assert await first_of(says(error, 0.1), says("second", 0.3), known()) == "second"
    with pytest.raises(OSError, match="gone"):
        await first_of(says(error, 0.1), says(OSError("gone too"), 0.2), known())


async def test_without_a_token_or_a_figure_there_is_only_the_first():
    spent = known()
    while spent.take():
        pass
    for hedge in (spent, Hedge()):
        assert await first_of(says("first", 0.1), says("second"), hedge) == "first"


async def test_a_probe_whose_connection_hangs_is_answered_over_another():
    hanging = asyncio.Event()

    async def script(reader, writer):
        while True:
            await reader.readuntil(b"\r\n\r\n")
            if hanging.is_set():
                hanging.clear()
                await asyncio.sleep(100)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with upstream(script) as pool:
        reach = Way("iad", pool.host, pool.port)
        for _ in range(LEAST_SEEN + 1):
            await reach.probe()
        hanging.set()
        await reach.probe()
        await reach.close()

    assert reach.hedge.num_hedged >= 1
    assert not reach.down
    assert not hanging.is_set()
