"""The gaps of a heap are filled: what is made next lies side by side."""

import subprocess
import sys

NEXT = """
import sys
from itertools import pairwise

from inference.heap import fill_holes

kept = [bytes(67) for _ in range(20_000)]  # 112 bytes each
del kept[::2]
taken = fill_holes() if sys.argv[1] == "filled" else 0
places = [id(each) for each in [bytes(67) for _ in range(2_000)]]
print(taken, sum(after == before + 112 for before, after in pairwise(places)))
"""


def found(how):
    """Bytes taken, and how many of 1,999 objects lie right behind the one made before."""
    told = subprocess.run([sys.executable, "-c", NEXT, how], check=True, capture_output=True, text=True)
    return map(int, told.stdout.split())


def test_objects_lie_side_by_side_once_the_gaps_are_filled():
    """And in gaps before: every second place of what was there."""
    taken, beside = found("filled")
    assert taken >= 10_000 * 112
    assert beside > 1_900

    taken, beside = found("as it is")
    assert taken == 0
    assert beside < 200
