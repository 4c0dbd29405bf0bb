"""Counts are said as a person says them."""

import pytest

from wire.counted import counted


@pytest.mark.parametrize(
    ("num", "one", "said"),
    [
        (1, "edge", "1 edge"),
        (0, "edge", "0 edges"),
        (2, "edge", "2 edges"),
        (1, "process", "1 process"),
        (12, "process", "12 processes"),
        (3, "cold request", "3 cold requests"),
        (1.0, "request", "1.0 request"),
    ],
)
def test_one_is_not_several(num, one, said):
    assert counted(num, one) == said
