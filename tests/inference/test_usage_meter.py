"""What steps cost is shared out without loss, and a killed engine leaves figures that add up."""

import os
import random
import signal
import time
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.usage.meter import Account, Meter
from inference.usage.own_log import OwnLog, parts_of, read_log, wait_gone
from tests.evidence import count

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@given(st.integers(0, 10**12), st.lists(st.integers(1, 10**6), min_size=1, max_size=100))
def test_shares_sum_to_the_whole_and_each_is_within_one_of_its_own(total: int, weights: list[int]) -> None:
    meter = Meter()
    meter.step([(str(order), weight, 0) for order, weight in enumerate(weights)], total * 1_000)
    shares = [meter.close(str(order)).us for order in range(len(weights))]

    assert sum(shares) == total
    for share, weight in zip(shares, weights, strict=True):
        assert abs(share - Fraction(total * weight, sum(weights))) < 1


STEPS = st.lists(
    st.tuples(
        st.lists(
            st.tuples(st.integers(0, 12), st.integers(1, 512), st.booleans()),
            max_size=8,
            unique_by=lambda p: p[0],
        ),
        st.integers(0, 10**9),
        st.sets(st.integers(0, 12)),
    ),
    max_size=40,
)


@settings(max_examples=count(30, 1_000))
@given(STEPS)
def test_all_orders_together_are_the_steps_to_the_microsecond(steps: list[Any]) -> None:
    """Rows come, end and come again; no step's time and no token is lost or counted twice."""
    meter, ended, whole_ns, computed, sampled = Meter(), [], 0, 0, 0
    for rows, took_ns, leaving in steps:
        meter.step([(str(order), num, int(samples)) for order, num, samples in rows], took_ns)
        whole_ns += took_ns if rows else 0
        computed += sum(num for _, num, _ in rows)
        sampled += sum(samples for _, _, samples in rows)
        ended += [meter.close(str(order)) for order in leaving]
    ended += [meter.close(str(order)) for order in range(13)]

    assert sum(each.us for each in ended) == meter.total_us == whole_ns // 1000
    assert sum(each.computed for each in ended) == computed
    assert sum(each.sampled for each in ended) == sampled


def test_an_order_that_computed_nothing_cost_nothing() -> None:
    assert Meter().close("7") == Account()


def added_up(folder: Path, name: str) -> tuple[int, int, int]:
    told = read_log(folder, name)
    orders = [*told.ended.values(), *told.running.values()]
    return sum(each.us for each in orders), told.total_us, told.num_steps


def test_the_log_says_what_the_meter_said(tmp_path: Path) -> None:
    log = OwnLog(tmp_path, "a", part_bytes=100)
    meter = Meter(log)
    meter.step([("0", 5, 1), ("1", 3, 0)], 8_000_000)
    meter.step([("0", 1, 1), ("1", 1, 1)], 2_000_000)
    closed = meter.close("0")
    meter.step([("1", 1, 1), ("2", 9, 0)], 1_000_001)
    told = read_log(tmp_path, "a")

    assert told.ended == {"0": closed}
    assert closed == Account(6, 2, 6_000)
    assert told.running == {"1": Account(5, 2, 4_100), "2": Account(9, 0, 900)}
    assert (told.total_us, told.num_steps) == (11_000, 3)
    for order in ("1", "2"):
        meter.close(order)
    assert len(parts_of(tmp_path, "a")) > 1, "a log goes on in another file"
    assert added_up(tmp_path, "a") == (11_000, 11_000, 3)
    assert not wait_gone(tmp_path, "a", 0.0), "its lock is held while it lives"


def test_a_name_in_use_and_a_log_that_is_cut_short(tmp_path: Path) -> None:
    log = OwnLog(tmp_path, "a")
    log.ended("0", Account(1, 1, 1))
    with pytest.raises(OSError, match="exists"):
        OwnLog(tmp_path, "a")
    with parts_of(tmp_path, "a")[0].open("a") as file:
        file.write('{"order": "1", "comp')

    assert read_log(tmp_path, "a").ended == {"0": Account(1, 1, 1)}
    assert read_log(tmp_path, "never").total_us == 0


def test_a_full_disk_costs_no_order_its_line(tmp_path: Path) -> None:
    log = OwnLog(tmp_path, "a")
    there, full = log._part, os.open("/dev/full", os.O_WRONLY)
    log._part = full
    log.ended("0", Account(1, 1, 1))
    log._part = there
    log.ended("1", Account(2, 2, 2))
    os.close(full)

    assert read_log(tmp_path, "a").ended == {"0": Account(1, 1, 1), "1": Account(2, 2, 2)}


def be_an_engine(folder: Path, name: str, seed: int) -> None:
    """Step for ever, rows coming and going; told to stop by SIGKILL alone."""
    draws, meter, first = random.Random(seed), Meter(OwnLog(folder, name, part_bytes=2_000)), 0
    while True:
        rows = [(str(first + each), draws.randint(1, 64), draws.randint(0, 1)) for each in range(12)]
        meter.step(rows, draws.randint(1, 10**7))
        if draws.random() < 0.3:
            meter.close(str(first))
            first += 1


@pytest.mark.parametrize("number", range(count(4, 400)))
def test_an_engine_killed_at_any_instruction_leaves_figures_that_add_up(tmp_path: Path, number: int) -> None:
    child = os.fork()
    if not child:
        with suppress(BaseException):
            be_an_engine(tmp_path, "a", number)
        os._exit(1)
    try:
        until = time.monotonic() + 60
        while not added_up(tmp_path, "a")[2] and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(random.Random(number).uniform(0.005, 0.03))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert wait_gone(tmp_path, "a", 10.0)
    shared_us, total_us, num_steps = added_up(tmp_path, "a")

    assert num_steps > 0
    assert shared_us == total_us
