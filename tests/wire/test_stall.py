"""Who takes too little is told apart from who is slow and takes enough."""

import pytest

from wire.listener.stall import Stall


def cut_at(left, *, stall_s=10.0, bytes_per_s=100.0):
    """The first second at which it counts as too slow, of 1,000,000 bytes; `left(t)` are unsent then."""
    stall = Stall(1_000_000, 50.0)
    seconds = range(1, 60)
    found = (t for t in seconds if stall.too_slow(left(t), 50.0 + t, stall_s, bytes_per_s))
    return next(found, None)


@pytest.mark.parametrize(
    ("left", "at"),
    [
        (lambda _: 1_000_000, 11),
        (lambda t: 1_000_000 - t, 11),  # a byte a second
        (lambda t: 1_000_000 - 99 * t, 11),
        (lambda t: 1_000_000 - 100 * t, None),
        (lambda t: 1_000_000 - (5_000 if t > 9 else 0), 21),  # late, but much; and then nothing
        (lambda t: 1_000_000 - 2_000 * (t // 9), None),  # in bursts, the pauses shorter than the limit
    ],
    ids=["nothing", "a drip", "just too little", "just enough", "one burst", "bursts"],
)
def test_who_is_too_slow(left, at):
    assert cut_at(left) == at
