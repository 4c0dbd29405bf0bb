"""Parts at once: more on a quick line, few on a slow one, and never more than have a turn."""

import threading

import pytest

from storage.client.width import LEAST, QUICK_S, SLOW_S, Width

MOST = 16


def _after(width, clock, took_s, num):
    for _ in range(num):
        with width.turn():
            clock[0] += took_s
    return width.width


@pytest.fixture
def clock():
    return [0.0]


@pytest.fixture
def width(clock):
    return Width(MOST, lambda: clock[0])


def test_a_quick_line_takes_more_until_the_most(width, clock):
    assert width.width == LEAST
    assert _after(width, clock, QUICK_S / 2, 3) == LEAST + 3
    assert _after(width, clock, QUICK_S / 2, 100) == MOST


def test_a_slow_line_takes_fewer_until_the_least(width, clock):
    _after(width, clock, 0.0, 100)
    assert _after(width, clock, SLOW_S + 1, 2) == MOST - 2
    assert _after(width, clock, SLOW_S + 1, 100) == LEAST


def test_between_the_two_it_stays_and_one_that_fails_teaches_nothing(width, clock):
    assert _after(width, clock, (QUICK_S + SLOW_S) / 2, 5) == LEAST
    with pytest.raises(InterruptedError), width.turn():
        raise InterruptedError
    assert width.width == LEAST
    assert _after(width, clock, 0.0, 1) == LEAST + 1, "its turn was given back"


def test_who_has_no_turn_waits_for_one():
    width, inside, go = Width(2), threading.Semaphore(0), threading.Event()

    def work():
        with width.turn():
            inside.release()
            go.wait(10)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for each in threads:
        each.start()
    assert inside.acquire(timeout=10)
    assert inside.acquire(timeout=10)
    assert not inside.acquire(timeout=0.1)
    go.set()
    assert inside.acquire(timeout=10)
    for each in threads:
        each.join(10)
