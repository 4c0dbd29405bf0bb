"""Figures: only what the number of samples allows, from samples that were measured."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.report.arms import COLD, Arm, Start, arms, coldest
from deploy.report.page.scale import Linear, Logarithmic
from deploy.report.stats import (
    Summary,
    ecdf,
    middle,
    quantile,
    ratio_interval,
    resampled_medians,
    samples_for,
    summary,
)
from deploy.report.words import best, best_rate, ms, num_bytes, share, spread, tick, times

SAMPLES = st.lists(st.floats(0.001, 1e6), min_size=1, max_size=200)


def test_percentiles_need_enough_samples():
    """n at least 10 / (1 - share): p50 from 20, p90 from 100, p95 from 200, p99 from 1,000; below, nothing is said."""
    assert [samples_for(share) for share in (0.5, 0.9, 0.95, 0.99)] == [20, 100, 200, 1000]
    few, enough = summary([1.0] * 19), summary([float(i) for i in range(1, 21)])
    assert (few.p50, few.interval, few.most) == (None, None, 1.0)
    assert (enough.p50, enough.p90) == (10.0, None)
    assert summary([1.0] * 99).p90 is None
    assert summary([float(i) for i in range(1, 101)]).p90 == 90.0
    assert (summary([1.0] * 200).p95, summary([1.0] * 999).p99) == (1.0, None)
    assert summary([float(i) for i in range(1, 1001)]).p99 == 990.0
    assert summary([]) == Summary(0)


def test_failed_requests_are_slower_than_any():
    """Of 30 answered and 10 failed the median is the 20th of 40, the p90 of 100 with 11 failed is not said."""
    some = summary([float(i) for i in range(1, 31)], num_failed=10)
    many = summary([float(i) for i in range(1, 90)], num_failed=11)

    assert (some.n, some.p50, some.most) == (30, 20.0, 30.0)
    assert (many.p50, many.p90) == (50.0, None)


def test_a_median_among_failures_is_not_said():
    """Nor an interval that ends there; the range of those that were answered stays."""
    found = summary([1.0] * 15, num_failed=16)
    torn = summary([float(i) for i in range(1, 23)], num_failed=18)

    assert (found.p50, found.interval, found.most) == (None, None, 1.0)
    assert (torn.p50, torn.interval) == (20.0, None)


def test_the_interval_is_that_of_the_plain_bootstrap():
    """Medians drawn from their law are spread as medians of real resamples are."""
    rng = random.Random(4)
    for n in (20, 41, 150):
        ordered = sorted(rng.lognormvariate(0, 1) for _ in range(n))
        plain = sorted(quantile(sorted(rng.choices(ordered, k=n)), 0.5) for _ in range(1000))
        drawn = sorted(resampled_medians(ordered, rng, 3000))
        ranks = [
            [ordered.index(quantile(some, share)) for share in (0.025, 0.5, 0.975)] for some in (plain, drawn)
        ]
        assert all(abs(a - b) <= 1 + n // 50 for a, b in zip(*ranks, strict=True))


def test_the_ratio_of_two_medians():
    """Its interval holds the true ratio, and not one where there is a change."""
    rng = random.Random(9)
    before = sorted(rng.lognormvariate(0, 0.2) for _ in range(80))
    after = sorted(rng.lognormvariate(0, 0.2) * 1.5 for _ in range(80))
    low, high = ratio_interval(before, after, seed=1)

    assert 1 < low < 1.5 < high < 1.8
    assert ratio_interval(before, after, seed=1) == (low, high)


@given(SAMPLES)
def test_every_quantile_was_measured(samples):
    """Nearest rank: no figure lies between two samples."""
    figure = summary(samples)

    for value in (figure.least, figure.most, figure.p50, figure.p90, figure.p99, *(figure.interval or ())):
        assert value is None or value in samples
    if figure.interval and figure.p50 is not None:
        assert figure.interval[0] <= figure.interval[1]


def test_the_interval_is_the_seeds():
    """The same samples and seed give the same interval; it holds the median of a clean distribution."""
    samples = [float(i) for i in range(1, 42)]
    low, high = summary(samples, seed=1).interval or (0.0, 0.0)

    assert summary(samples, seed=1).interval == (low, high)
    assert low < 21.0 < high


def test_quantile_refuses_nothing():
    """There is no quantile of no samples."""
    with pytest.raises(ValueError, match="no samples"):
        quantile([], 0.5)


def test_of_two_the_middle_is_the_slower():
    """A report does not flatter itself."""
    assert [middle(n) for n in (1, 2, 3, 4, 5)] == [0, 1, 1, 1, 2]
    ordered = [float(i) for i in range(20)]
    assert ordered[middle(20)] == summary(ordered).p50


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=1000))
def test_a_thinned_distribution_keeps_its_ends(samples):
    """However many samples, the curve has at most 200 points, rises, and ends at 1."""
    points = ecdf(samples)

    assert len(points) <= 200
    assert points[0][0] == min(samples)
    assert points[-1] == (max(samples), 1.0)
    assert points == sorted(points)


def test_arms_are_complete_and_shuffled_by_the_seed():
    """Every region has every start state as often as asked, whatever the order."""
    made = arms(("iad", "fra"), num_cold=2, num_warm=12, seed=1)

    assert made == arms(("iad", "fra"), num_cold=2, num_warm=12, seed=1)
    assert made != arms(("iad", "fra"), num_cold=2, num_warm=12, seed=2)
    assert sum(arm.num_requests for arm in made if arm.start is Start.WARM and arm.region == "fra") == 12
    assert all(made.count(Arm(region, start)) == 2 for region in ("iad", "fra") for start in COLD)


def test_the_coldest_claim_counts():
    """A worker that was woken for a request may call itself warm; its gateway knows better."""
    assert coldest(["warm", None, "region"]) is Start.REGION
    assert coldest([None, "moon"]) is None


@given(st.floats(0.01, 1e6))
def test_linear_ticks_are_round_and_inside(most):
    """Two to six ticks from zero, none beyond the axis."""
    ticks = Linear(most).ticks()

    assert 2 <= len(ticks) <= 6
    assert ticks[0] == 0.0
    assert ticks[-1] <= most * 1.0001


@given(st.floats(0.01, 1e5), st.floats(1.0, 1e4))
def test_logarithmic_axes_hold_their_values(least, factor):
    """The axis covers the values, in at least a decade, with at least two ticks."""
    axis = Logarithmic.over(least, least * factor)

    assert axis.most / axis.least >= 9.99
    assert axis.at(least) >= 0.0
    assert math.isclose(axis.at(axis.most), 1.0)
    assert len(axis.ticks()) >= 2


def test_axes_of_nothing():
    """No samples, no division by zero."""
    assert Linear(0.0).ticks() == [0.0]
    assert Linear(0.0).at(5.0) == 0.0


def test_words():
    """Three digits that count, the unit a person would use."""
    assert [ms(v) for v in (None, 0.042, 6.13, 41.26, 412.4, 1234.5)] == [
        "—",
        "0.04 ms",
        "6.1 ms",
        "41.3 ms",
        "412 ms",
        "1.23 s",
    ]
    assert [num_bytes(v) for v in (None, 0, 999, 6_888_000, 123_456_789)] == [
        "—",
        "0 B",
        "999 B",
        "6.9 MB",
        "123 MB",
    ]
    assert [tick(v) for v in (0.0, 2.5, 100.0, 2000.0)] == ["0 ms", "2.5 ms", "100 ms", "2 s"]
    assert [share(v) for v in (None, 0.0, 0.012, 0.5)] == ["—", "0%", "1.2%", "50%"]
    assert times(100.0, 4.0) == "25\N{MULTIPLICATION SIGN}"
    assert times(None, 4.0) == "—"
    assert spread(summary([1.0, 2.0])) == "1.0\N{EN DASH}2.0 ms"
    assert spread(summary([900.0, 2000.0])) == "900 ms\N{EN DASH}2 s"
    assert best(summary([1.0, 2.0])) == 2.0
    assert best_rate(summary([1.0, 2.0])) == 1.0
