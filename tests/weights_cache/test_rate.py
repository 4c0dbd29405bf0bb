"""Measured bandwidth: it follows transfers, and small ones do not stand for what large ones would take."""

import pytest

from weights_cache.reading.rate import LARGE_BYTES, LEAST_BYTES, WEIGHT, Rate

MB = 10**6


def after(*transfers):
    rate = Rate()
    for num_bytes, seconds in transfers:
        rate.observe(num_bytes, seconds)
    return rate.bytes_per_s


def test_nothing_is_known_before_a_transfer_that_tells_something():
    assert after() is None
    assert after((LEAST_BYTES - 1, 1.0), (MB, 0.0)) is None
    assert after((MB, 0.5)) == 2 * MB


def test_it_follows_transfers_of_like_size():
    assert after((1000 * MB, 1.0), (1000 * MB, 2.0)) == pytest.approx((1 - WEIGHT * 0.5) * 1000 * MB)
    assert after((1000 * MB, 1.0), (LARGE_BYTES, 1.0)) == pytest.approx(
        1000 * MB + WEIGHT * (LARGE_BYTES - 1000 * MB)
    )


def test_the_latency_of_small_transfers_is_no_bandwidth_once_a_large_one_was_seen():
    small, large = (7 * MB, 0.1), (1000 * MB, 1.0)
    assert after(small) == pytest.approx(70 * MB)
    assert after(small, small, large) == pytest.approx(1000 * MB), "what they told is forgotten"
    assert after(large, *[small] * 100) == pytest.approx(1000 * MB), "and not asked for again"
