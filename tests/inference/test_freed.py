"""Freed memory is used again by who freed it: no page of it is taken from the system a second time."""

import subprocess
import sys

import pytest

from inference.engine.freed import MOST_BYTES

MIB = 1 << 20
CHILD = """
import resource, sys
from inference.engine.freed import keep_freed

def faults(num_bytes):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = bytearray(num_bytes)
    held[::4096] = bytes(len(range(0, num_bytes, 4096)))
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(keep_freed() if sys.argv[1] == "kept" else True)
faults(int(sys.argv[2]))
print(faults(int(sys.argv[2])))
"""


def second_faults(how, num_bytes):
    """Pages that the same allocation takes from the system when it is made again."""
    command = [sys.executable, "-c", CHILD, how, str(num_bytes)]
    is_set, found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert is_set == "True"
    return int(found)


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_what_was_freed_is_not_taken_from_the_system_again():
    num_bytes = MOST_BYTES - MIB
    assert second_faults("kept", num_bytes) < num_bytes // 4096 // 10
    assert second_faults("as it is", 2 * MOST_BYTES) > 2 * MOST_BYTES // 4096 // 2, "the count counts"
