"""What sizes cost: measured as it goes."""

import pytest

from inference.engine.curve import Curve


def taught(*measures, shared=0.0, weight=0.3):
    curve = Curve(shared)
    for size, seconds in measures:
        curve.learn(size, seconds, weight)
    return curve


def test_one_size_alone_is_taken_to_be_all_that_costs():
    curve = taught((64, 0.032))
    assert curve.at(32) == pytest.approx(0.016)
    assert curve.most_within(0.020, 16, 512) == 40


def test_two_sizes_tell_what_each_costs_however_small():
    curve = taught((16, 0.014), (64, 0.026))
    assert curve.at(40) == pytest.approx(0.020)
    assert curve.at(128) == pytest.approx(0.052), "beyond them each more costs what one did until there"
    assert curve.most_within(0.020, 16, 512) == 40, "as if all of it were its tokens' it would be 22"


def test_no_size_costs_less_than_a_smaller_one():
    curve = taught((16, 0.014), (64, 0.001), (128, 0.030))
    assert curve.at(64) == curve.at(16) == 0.014
    assert curve.at(1) == 0.014


def test_beyond_what_was_measured_nothing_is_free():
    """Two noisy measures must not say that five hundred tokens cost what fifty do."""
    curve = taught((20, 0.030), (50, 0.020))
    assert curve.most_within(0.035, 16, 512) < 70


def test_the_least_is_given_where_nothing_fits():
    assert taught((64, 1.0)).most_within(0.0001, 16, 512) == 16


def test_what_makes_one_size_dearer_makes_others_dearer_too_where_that_is_shared():
    alone, shared = (taught((16, 0.01), (100, 0.1), (100, 0.2), shared=share) for share in (0.0, 0.7))
    assert alone.at(16) == pytest.approx(0.01)
    assert 0.01 < shared.at(16) < 0.015


def test_an_outlier_counts_for_twice_what_was_expected():
    assert taught((100, 0.1), (100, 50.0), shared=0.7, weight=0.5).at(100) == pytest.approx(0.15)
