"""Work beside a body: in order, never far behind, and its failure is heard."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from storage.http.lane import MAX_BEHIND, Lane


@pytest.fixture
def pool():
    with ThreadPoolExecutor(4) as pool:
        yield pool


def test_everything_is_worked_on_in_order(pool):
    done = []
    lane = Lane(pool, done.extend)
    for number in range(500):
        lane.put([b"%d" % number])
    lane.drain()

    assert done == [b"%d" % number for number in range(500)]


def test_many_lanes_share_few_threads(pool):
    done = [[] for _ in range(20)]
    lanes = [Lane(pool, each.extend) for each in done]
    for number in range(50):
        for lane in lanes:
            lane.put([b"%d" % number])
    for lane in lanes:
        lane.drain()

    assert all(each == [b"%d" % number for number in range(50)] for each in done)


def test_who_brings_more_waits(pool):
    go, brought = threading.Event(), []
    lane = Lane(pool, lambda _: go.wait(60))

    def bring():
        for _ in range(MAX_BEHIND + 1):
            lane.put([b""])
            brought.append(1)

    bringing = threading.Thread(target=bring)
    bringing.start()
    bringing.join(0.2)
    assert len(brought) == MAX_BEHIND
    go.set()
    bringing.join(60)
    lane.drain()

    assert len(brought) == MAX_BEHIND + 1


def test_a_failure_is_heard_and_nobody_hangs(pool):
    def fail(_):
        raise MemoryError

    lane = Lane(pool, fail)
    for _ in range(MAX_BEHIND + 2):
        lane.put([b""])

    with pytest.raises(MemoryError):
        lane.drain()


def test_nothing_to_do_is_done(pool):
    Lane(pool, lambda _: None).drain()
