import math
from collections import Counter
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regions.choose import MAX_CHOICES, RAMP_MS, UNKNOWN_RTT_MS, nearest, rank
from regions.chosen import prewarm, route_header
from regions.health import HEALTHY, Breaker, Outcome, RegionHealth, after
from regions.map.region import Progress, RolloutState, Tier
from regions.offer import queue_ms, ready_ms
from regions.rows import NEVER, Snapshot, encode, fold
from regions.settle import MARGIN_MS, Wish
from tests.regions.made import KEYS, MODEL, SIGNERS, heard, model_row, region_row

RTT = {"iad": 1.0, "fra": 80.0, "nrt": 160.0}
COLD = model_row(tier=Tier.REGION, slots=0)


class Way(NamedTuple):
    rtt_ms: float | None
    health: RegionHealth


def ranked(rows, *, rtt=RTT, health=None, tokens=100, now=0.0, model=MODEL, **more):
    ways = {name: Way(rtt.get(name), (health or {}).get(name, HEALTHY)) for name in rows}
    return rank(model, rows, nearest(ways), ways, prompt_tokens=tokens, now=now, **more)


def order(choices):
    return [each.region for each in choices]


def three(**rows):
    return {name: heard(name, row=rows.get(name)) for name in RTT}


def test_choose_all_equal_but_the_distance_the_nearest_wins_and_every_term_is_shown():
    choices = ranked(three())

    assert order(choices) == ["iad", "fra", "nrt"]
    assert choices[0].total_ms == pytest.approx(1.0 + 10.0)
    assert route_header(choices[:2]) == (
        "iad rtt=1 queue=0 prefill=10 ready=0 total=11; fra rtt=80 queue=0 prefill=10 ready=0 total=90"
    )
    assert route_header(choices[:1], "us-eu-jp").endswith("; simulated-wan=us-eu-jp")
    assert route_header(()) == ""


def test_choose_a_far_warm_region_beats_a_near_cold_one_which_is_then_prewarmed():
    choices = ranked(three(iad=COLD))

    assert order(choices) == ["fra", "nrt", "iad"]
    assert prewarm(choices) == "iad"


def test_choose_a_small_model_in_the_near_store_beats_an_ocean():
    tiny = model_row(tier=Tier.HOST, bytes=4_000_000, slots=0)
    rows = {"iad": heard("iad", row=tiny, attach_s=0.02), "nrt": heard("nrt")}

    assert order(ranked(rows)) == ["iad", "nrt"]
    assert prewarm(ranked(rows)) is None


def test_choose_a_long_queue_near_by_loses_to_an_idle_region_far_away():
    busy = model_row(running=8, waiting=4)

    assert order(ranked(three(iad=busy)))[0] == "fra"


def test_choose_a_slow_prefill_counts_by_the_length_of_the_prompt():
    rows = three(iad=model_row(prefill_ms_per_token=1.0))

    assert order(ranked(rows, tokens=10))[0] == "iad"
    assert order(ranked(rows, tokens=1000))[0] == "fra"


@pytest.mark.parametrize(
    ("tier", "expected_ms"),
    [("resident", 0.0), ("host", 750.0), ("region", 1500.0), ("origin", 11500.0)],
)
def test_choose_the_time_to_ready_is_bytes_over_bandwidth_plus_attach(tier, expected_ms):
    assert ready_ms(region_row(), model_row(tier=Tier(tier))) == pytest.approx(expected_ms)


def test_choose_a_load_half_done_needs_half_the_time_and_unmeasured_figures_have_defaults():
    half = model_row(tier=Tier.REGION, progress=Progress("fetch", 50.0))
    unmeasured = region_row(store_bytes_per_s=0.0, attach_s=0.0)

    assert ready_ms(region_row(), half) == pytest.approx(750.0)
    assert ready_ms(unmeasured, COLD) == pytest.approx(2000.0)


@pytest.mark.parametrize(
    ("running", "waiting", "slots", "turns"),
    [(0, 0, 8, 0), (7, 0, 8, 0), (8, 0, 8, 1), (8, 3, 8, 4), (0, 2, 8, 2), (0, 5, 0, 0)],
)
def test_choose_the_queue_is_the_turns_ahead_shared_by_the_slots(running, waiting, slots, turns):
    row = model_row(running=running, waiting=waiting, slots=slots)

    assert queue_ms(row) == pytest.approx(turns * 128 * 10.0 / 8)


def test_choose_regions_that_do_not_serve_the_model_are_not_offered():
    rows = {
        "iad": heard("iad", row=model_row(state=RolloutState.WARMING)),
        "fra": heard("fra", row=model_row(revision="")),
        "nrt": heard("nrt"),
    }

    assert order(ranked(rows)) == ["nrt"]
    assert ranked(rows, model="other/m") == ()


def test_choose_draining_ejected_and_silent_regions_come_last_but_are_not_lost():
    ejected = after(after(HEALTHY, Outcome.FAILED, 0.0), Outcome.FAILED, 0.0)
    draining = {**three(), "iad": heard("iad", draining=True)}
    silent = {**three(), "iad": heard("iad", at=-60.0)}
    retiring = three(iad=model_row(state=RolloutState.DRAINING))

    assert order(ranked(draining)) == ["fra", "nrt", "iad"]
    assert order(ranked(silent)) == ["fra", "nrt", "iad"]
    assert order(ranked(retiring)) == ["fra", "nrt", "iad"]
    assert order(ranked(three(), health={"iad": ejected, "fra": HEALTHY, "nrt": HEALTHY})) == [
        "fra",
        "nrt",
        "iad",
    ]


def test_choose_in_a_panic_the_breakers_are_ignored():
    bad = after(after(HEALTHY, Outcome.FAILED, 0.0), Outcome.FAILED, 0.0)

    assert order(ranked(three(), health=dict.fromkeys(RTT, bad))) == ["iad", "fra", "nrt"]


def test_choose_a_region_that_answers_no_probe_stays_away_in_a_panic_unless_none_answers():
    bad = after(after(HEALTHY, Outcome.FAILED, 0.0), Outcome.FAILED, 0.0)
    down = RegionHealth(breaker=Breaker.OPEN, until=math.inf)
    one_answers = ranked(three(), health={"iad": down, "fra": bad, "nrt": down})

    assert order(one_answers)[0] == "fra"
    assert [each.state for each in one_answers] == ["ok", "away", "away"]
    assert {each.state for each in ranked(three(), health=dict.fromkeys(RTT, down))} == {"ok"}


def warmed(*, tier=Tier.RESIDENT, revision="a" * 64, at=10.0, before=Tier.REGION, seen=0.0):
    """A region whose model was `before` elsewhere, and is `tier` since `at`, as an edge heard it."""
    rows = [model_row(tier=before), model_row(tier=tier, revision=revision)]
    lines = [encode(region_row(seq=n + 1, models={MODEL: row}), KEYS["iad"]) for n, row in enumerate(rows)]
    return fold(fold(Snapshot(), lines[0], SIGNERS, now=seen), lines[1], SIGNERS, now=at).regions["iad"]


@pytest.mark.parametrize(
    ("is_fresh", "changes"),
    [
        (True, {}),
        (True, {"before": Tier.RESIDENT, "revision": "b" * 64}),  # another engine
        (False, {"before": Tier.RESIDENT}),
        (False, {"tier": Tier.HOST}),
        (False, {"seen": NEVER}),  # what was on disk was long ago
    ],
)
def test_choose_a_model_starts_slowly_where_it_became_resident(is_fresh, changes):
    assert set(warmed(**changes).fresh) == ({MODEL} if is_fresh else set())


def test_choose_a_start_that_is_full_is_asked_last_of_those_that_answer_within_a_second_more():
    rows = {"iad": warmed(), "fra": heard("fra", at=10.0)}
    full = Wish(full=frozenset({"iad"}))

    assert order(ranked(rows, now=10.0)) == ["iad", "fra"]
    assert order(ranked(rows, now=10.0, wish=full)) == ["fra", "iad"]
    assert {each.state for each in ranked(rows, now=10.0, wish=full)} == {"ok", "ramp"}


def test_choose_where_nobody_else_can_answer_a_full_start_has_no_say():
    rows = {"iad": warmed(), "fra": heard("fra", at=10.0, row=model_row(tier=Tier.REGION))}

    # a start takes longer than its doubt
    assert order(ranked(rows, now=10.0, wish=Wish(full=frozenset({"iad"}))))[0] == "iad"


def test_choose_with_every_control_plane_dead_rows_from_disk_still_route():
    rows = {name: heard(name, at=NEVER) for name in RTT}

    assert order(ranked(rows, now=1e6)) == ["iad", "fra", "nrt"]
    assert {each.state for each in ranked(rows, now=1e6)} == {"away"}


def test_choose_an_overdue_row_is_doubted_more_with_each_second():
    rows = {**three(), "iad": heard("iad", at=-5.0)}
    choice = next(each for each in ranked(rows) if each.region == "iad")

    assert choice.state == "stale"
    assert choice.doubt_ms == pytest.approx(100.0)
    assert order(ranked(rows))[0] == "fra"


def test_choose_a_region_that_came_back_gets_only_its_share():
    back = after(
        after(after(after(HEALTHY, Outcome.FAILED, 0), Outcome.FAILED, 0), Outcome.SENT, 1),
        Outcome.SUCCEEDED,
        1,
    )
    health = {"iad": back, "fra": HEALTHY, "nrt": HEALTHY}

    def winner(draw):
        return ranked(three(), health=health, now=3.0, draws=(0.0, 0.0, draw))[0].region

    assert [winner(0.1), winner(0.9)] == ["iad", "fra"]
    choices = ranked(three(), health=health, now=3.0, draws=(0.0, 0.0, 0.9))
    assert next(each for each in choices if each.region == "iad").doubt_ms == RAMP_MS


@pytest.mark.parametrize(
    ("near_ms", "previous_ms", "kept"),
    [(10.0, 14.0, True), (10.0, 16.0, False), (100.0, 110.0, True), (100.0, 125.0, False)],
)
def test_choose_the_previous_region_is_kept_unless_beaten_by_10_percent_or_5_ms(near_ms, previous_ms, kept):
    rows = {name: heard(name, row=model_row(prefill_ms_per_token=0.0)) for name in ("iad", "fra")}
    choices = ranked(rows, rtt={"iad": near_ms, "fra": previous_ms}, previous="fra")

    assert (choices[0].region == "fra") is kept
    assert MARGIN_MS == 5.0


def test_choose_a_previous_region_that_is_away_or_gone_is_not_kept():
    rows = {**three(), "iad": heard("iad", draining=True)}

    assert order(ranked(rows, previous="iad"))[0] == "fra"
    assert order(ranked(rows, previous="mars"))[0] == "fra"


def test_choose_of_two_equals_drawn_at_random_the_less_loaded_wins():
    rows = {n: heard(n, row=model_row(running=r)) for n, r in (("iad", 5), ("fra", 1), ("nrt", 3))}
    same = dict.fromkeys(RTT, 1.0)

    def winner(first, second):
        return ranked(rows, rtt=same, draws=(first, second, 0.0))[0].region

    assert winner(0.5, 0.0) == "fra"  # iad against fra
    assert winner(0.5, 0.99) == "nrt"  # iad against nrt
    assert winner(0.0, 0.99) == "fra"  # fra against nrt


def test_choose_the_last_of_equals_stays_unless_one_drawn_has_less_to_do():
    same = dict.fromkeys(RTT, 1.0)
    idle = {n: heard(n) for n in RTT}
    busy = {**idle, "iad": heard("iad", row=model_row(running=2))}

    assert {ranked(idle, rtt=same, previous="iad", draws=(d, d, 0.0))[0].region for d in (0.0, 0.5, 0.9)} == {
        "iad"
    }
    assert ranked(busy, rtt=same, previous="iad")[0].region == "fra"


def test_choose_a_prompts_beginning_has_a_region_of_its_own_among_equals_unless_that_is_loaded():
    same = dict.fromkeys(RTT, 1.0)
    idle = {n: heard(n) for n in RTT}
    owners = {
        n: {ranked(idle, rtt=same, wish=Wish(seed=bytes([n])), previous=p)[0].region for p in ("", *RTT)}
        for n in range(60)
    }

    assert all(len(each) == 1 for each in owners.values())  # whatever was chosen before
    spread = Counter(region for (region,) in owners.values())
    assert all(spread[region] > 60 / 3 / 3 for region in RTT)
    (own,) = owners[0]
    loaded = {**idle, own: heard(own, row=model_row(running=5))}
    assert ranked(loaded, rtt=same, wish=Wish(seed=bytes([0])))[0].region != own
    assert ranked(idle, wish=Wish(seed=bytes([0])))[0].region == "iad"  # equals only: distance decides first


def test_choose_a_kept_beginning_takes_its_prefill_off_where_it_is_and_is_shown():
    slow = model_row(prefill_ms_per_token=1.0)
    rows = {n: heard(n, row=slow) for n in RTT}
    wish = Wish(cached={"fra": 500})

    assert order(ranked(rows, tokens=600, wish=wish))[0] == "fra"
    assert order(ranked(rows, tokens=600, wish=Wish(cached={"fra": 50})))[0] == "iad"  # it does not pay
    found = ranked(rows, tokens=600, wish=wish)[0]
    assert (found.prefill_ms, found.cached, found.total_ms) == (100.0, 500, 180.0)
    assert "prefill=100 cached=500 ready=0" in found.term()
    assert ranked(rows, tokens=300, wish=wish)[0].prefill_ms == 0.0


def test_choose_only_allowed_regions_are_ever_among_the_choices():
    everyone_else_dead = {
        "iad": HEALTHY,
        "fra": RegionHealth(breaker=Breaker.OPEN, until=1e9),
        "nrt": HEALTHY,
    }

    assert order(ranked(three(), wish=Wish(allowed=frozenset({"fra"})), health=everyone_else_dead)) == ["fra"]
    assert ranked(three(), wish=Wish(allowed=frozenset({"mars"}))) == ()


def test_choose_preferred_regions_come_first_but_not_when_they_are_away():
    wish = Wish(preferred=frozenset({"nrt", "fra"}))

    assert order(ranked(three(), wish=wish)) == ["fra", "nrt", "iad"]
    assert ranked(three(), wish=wish)[0].term().endswith(" preferred")
    draining = {**three(), "fra": heard("fra", draining=True)}
    assert order(ranked(draining, wish=wish)) == ["nrt", "iad", "fra"]
    assert prewarm(ranked(three(iad=COLD), wish=wish)) is None


def test_choose_a_region_that_the_rules_drain_is_a_last_resort():
    assert order(ranked(three(), wish=Wish(drained=frozenset({"iad"})))) == ["fra", "nrt", "iad"]


def test_choose_a_near_cold_region_is_shown_and_prewarmed_however_many_warm_ones_there_are():
    rows = {f"r{n:02d}": heard(f"r{n:02d}") for n in range(40)}
    rtt = {name: 10.0 + n for n, name in enumerate(rows)}
    rows["near"], rtt["near"] = heard("near", row=COLD), 1.0
    choices = ranked(rows, rtt=rtt)

    assert len(choices) == MAX_CHOICES
    assert order(choices)[: MAX_CHOICES - 1] == [f"r{n:02d}" for n in range(MAX_CHOICES - 1)]
    assert prewarm(choices) == "near"


@given(
    st.lists(st.tuples(st.floats(0, 300), st.integers(0, 12), st.sampled_from(Tier)), min_size=1, max_size=40)
)
def test_choose_stopping_where_distance_alone_is_worse_loses_nothing(regions):
    """The same best totals as weighing every region."""
    rows = {
        f"r{i}": heard("iad", row=model_row(running=each[1], tier=each[2])) for i, each in enumerate(regions)
    }
    rtt = {f"r{i}": each[0] for i, each in enumerate(regions)}
    totals = sorted(
        rtt[name] + offer.queue_ms + 100 * offer.prefill_ms_per_token + offer.ready_ms
        for name, offer in ((name, each.offers[MODEL]) for name, each in rows.items())
    )
    found = sorted(each.total_ms for each in ranked(rows, rtt=rtt))

    assert found[:-1] == pytest.approx(totals[: len(found) - 1])  # the last place may be a cold region's
    assert found[0] == pytest.approx(totals[0])


def test_choose_an_unmeasured_region_is_taken_to_be_far():
    assert ranked(three(), rtt={})[0].rtt_ms == UNKNOWN_RTT_MS


def test_choose_nothing_is_prewarmed_when_the_winner_is_nearest_or_the_cold_one_would_lose_anyway():
    assert prewarm(()) is None
    assert prewarm(ranked(three())) is None
    assert prewarm(ranked(three(nrt=COLD))) is None
    assert prewarm(ranked({"iad": heard("iad", row=COLD)})) is None
    away = {**three(), "iad": heard("iad", row=COLD, draining=True)}
    assert prewarm(ranked(away)) is None


standings = st.fixed_dictionaries(
    {
        "rtt": st.floats(0, 300),
        "at": st.floats(-30, 0),
        "running": st.integers(0, 16),
        "waiting": st.integers(0, 9),
        "tier": st.sampled_from(Tier),
        "draining": st.booleans(),
    }
)
draws = st.tuples(*[st.floats(0, 1, exclude_max=True)] * 3)


@given(st.lists(standings, max_size=12), st.integers(0, 12), draws)
def test_choose_a_total_is_the_sum_of_its_terms_and_nobody_is_lost_or_twice(regions, previous, draws):
    rows = {
        f"r{i}": heard(
            "iad",
            at=each["at"],
            draining=each["draining"],
            row=model_row(running=each["running"], waiting=each["waiting"], tier=each["tier"]),
        )
        for i, each in enumerate(regions)
    }
    rtt = {f"r{i}": each["rtt"] for i, each in enumerate(regions)}
    choices = ranked(rows, rtt=rtt, previous=f"r{previous}", draws=draws)

    assert len(choices) == min(len(rows), MAX_CHOICES)
    assert len(set(order(choices))) == len(choices)
    for each in choices:
        parts = each.rtt_ms + each.queue_ms + each.prefill_ms + each.ready_ms + each.doubt_ms
        assert each.total_ms == pytest.approx(parts)
    classes = [each.state == "away" for each in choices]
    assert classes == sorted(classes)
