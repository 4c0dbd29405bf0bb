"""Models are awake in their hours: what a window holds, what a push may say, what nodes are told and when."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regions.gateway.schedule import DAYS, is_due, window
from regions.gateway.warmth import Warmth
from regions.push.spec import SpecError, read_spec
from tests.regions.fake_node import region, until
from weights_cache.model.revision import Revision, Spec

MONDAY = datetime(2026, 11, 23, tzinfo=UTC)


def at(day, clock):
    hour, minute = clock.split(":")
    return MONDAY + timedelta(days=DAYS.index(day), hours=int(hour), minutes=int(minute))


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("08:00-18:00", ["mon 08:00", "sun 17:59"], ["mon 07:59", "sun 18:00"]),
        ("mon-fri 08:00-18:00", ["mon 08:00", "fri 17:59"], ["sat 09:00", "sun 09:00", "fri 18:00"]),
        ("sat,sun 10:00-12:00", ["sat 10:00", "sun 11:59"], ["fri 10:30", "mon 10:30", "sat 12:00"]),
        ("22:00-02:00", ["mon 22:00", "tue 01:59", "mon 00:30"], ["mon 02:00", "mon 21:59"]),
        ("sun 23:00-01:00", ["sun 23:30", "mon 00:59"], ["mon 01:00", "sun 00:30", "mon 23:30"]),
        (
            "fri-mon 00:00-06:00",
            ["fri 00:00", "sat 05:59", "sun 01:00", "mon 05:00"],
            ["tue 01:00", "thu 01:00"],
        ),
        ("wed 12:00-12:01", ["wed 12:00"], ["wed 12:01", "wed 11:59"]),
    ],
)
def test_a_window_holds_its_minutes(text, inside, outside):
    assert [each for each in inside if not is_due([text], at(*each.split()))] == []
    assert [each for each in outside if is_due([text], at(*each.split()))] == []


@given(st.integers(0, 6), st.integers(0, 1439), st.integers(0, 1439), st.integers(0, 10_079))
def test_a_days_window_is_as_long_as_it_says(day, first, last, minute):
    """Over a whole week, counted by the minute from its start."""
    text = f"{DAYS[day]} {first // 60:02}:{first % 60:02}-{last // 60:02}:{last % 60:02}"
    since_start = (minute - day * 1440 - first) % 10_080

    assert is_due([text], MONDAY + timedelta(minutes=minute)) == (since_start < (last - first) % 1440)


def test_nothing_is_due_without_a_schedule():
    assert not is_due([], MONDAY)
    with pytest.raises(ValueError, match="no window"):
        window("always")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('prewarm = "08:00-18:00"', "list"),
        ('prewarm = ["8:00-18:00"]', "is not hours"),
        ('prewarm = ["24:00-25:00"]', "is not hours"),
        ('prewarm = ["mo-fr 08:00-18:00"]', "is not hours"),
        ('prewarm = ["08:00-08:00"]', "no hours"),
        ('prewarm = ["mon 08:00-08:00"]', "no hours"),
        ("prewarm = [8]", "text"),
        (f"prewarm = {['08:00-09:00'] * 33}", "at most 32"),
        ('[prewarm]\nat = "08:00"', "list"),
    ],
)
def test_a_schedule_that_is_none_is_refused(text, words):
    with pytest.raises(SpecError, match=words):
        read_spec(text.encode(), ("iad",))


def test_a_schedule_is_part_of_a_push_and_older_revisions_keep_their_id():
    spec = read_spec(b'prewarm = ["mon-fri 08:00-18:00", "22:00-02:00"]', ("iad",))
    assert spec == Spec(prewarm=("mon-fri 08:00-18:00", "22:00-02:00"))
    assert Spec.from_value(spec.as_value()) == spec
    assert "prewarm" not in Spec().as_value()
    assert Spec.from_value(Spec().as_value()) == Spec()


def scheduled(r, *windows):
    """The region's model, pushed with these hours."""
    made = replace(r.revision, spec=Spec(prewarm=windows))
    assert Revision.from_json(made.to_json()) == made
    r.revision, r.deployment = made, r.deploy(made)
    return r.deployment


async def test_a_model_is_woken_when_its_hours_begin_and_may_rest_when_they_end():
    """In them it is loaded as one that is not idled out; the node is told when that ends; nothing is loaded twice."""
    async with region() as r:
        deployment = scheduled(r, "08:00-18:00")
        clock = [at("mon", "07:59")]
        warmth = Warmth(r.deployments, r.nodes, r.wakes, lambda: clock[0])
        await warmth.look()
        assert (r.fakes[0].loads, deployment.num_kept) == ([], 0)

        clock[0] = at("mon", "08:00")
        await warmth.look()
        await until(lambda: not r.wakes.running and r.fakes[0].resident)
        await warmth.look()
        assert [(each["reason"], each["min_replicas"]) for each in r.fakes[0].loads] == [("prewarm", 1)]

        clock[0] = at("mon", "18:00")
        await warmth.look()
        await warmth.look()
        assert [each["min_replicas"] for each in r.fakes[0].loads] == [1, 0]
        assert (deployment.num_kept, r.fakes[0].resident) == (0, {r.revision.id})


async def test_a_model_that_is_awake_already_is_kept_through_its_hours():
    async with region() as r:
        scheduled(r, "08:00-18:00")
        await r.resident()
        await Warmth(r.deployments, r.nodes, r.wakes, lambda: at("tue", "09:00")).look()

        assert [each["min_replicas"] for each in r.fakes[0].loads] == [1]
        assert r.wakes.running == {}


async def test_a_node_that_did_not_hear_the_end_is_told_again():
    async with region() as r:
        deployment = scheduled(r, "08:00-18:00")
        await r.resident()
        clock = [at("mon", "09:00")]
        warmth = Warmth(r.deployments, r.nodes, r.wakes, lambda: clock[0])
        await warmth.look()
        usual, r.fakes[0].load_script = r.fakes[0].load_script, refuse
        clock[0] = at("mon", "18:30")
        await warmth.look()
        assert deployment.num_kept == 1
        r.fakes[0].load_script = usual
        await warmth.look()

        assert deployment.num_kept == 0
        assert r.fakes[0].loads[-1]["min_replicas"] == 0


async def refuse(exchange):
    await exchange.respond(503, (), b'{"error":{"code":"draining","message":"this node is stopping"}}')


async def test_a_replica_at_all_times_needs_no_hours():
    async with region() as r:
        r.deployment.min_replicas = 1
        warmth = Warmth(r.deployments, r.nodes, r.wakes)
        await asyncio.gather(warmth.look(), warmth.look())
        await until(lambda: not r.wakes.running and r.fakes[0].resident)

        assert [each["min_replicas"] for each in r.fakes[0].loads] == [1]


async def test_a_start_that_fails_in_its_hours_is_tried_later_each_time():
    """A host without room for it is not asked every two seconds; once there is some it wakes, and all is forgotten."""
    async with region() as r:
        scheduled(r, "08:00-18:00")
        clock = [at("mon", "09:00")]
        warmth = Warmth(r.deployments, r.nodes, r.wakes, lambda: clock[0])
        usual, r.fakes[0].load_script = r.fakes[0].load_script, refuse
        asked = []
        for _ in range(100):
            await warmth.look()
            await until(lambda: not r.wakes.running)
            asked.append(len(r.fakes[0].loads))
            clock[0] += timedelta(seconds=2)
            for timer in r.wakes._resting.values():
                timer.cancel()
            r.wakes._resting.clear()
        r.fakes[0].load_script = usual
        clock[0] += timedelta(seconds=60)
        await warmth.look()
        await until(lambda: not r.wakes.running and r.fakes[0].resident)

    assert 6 <= asked[-1] <= 9  # 200 s: after 2, 4, 8, 16, 32, then 60 s
    assert warmth._falls == {}
