"""Request ids."""

import os
import re

from edge.numbers import NUM_DRAWN, Numbers


def test_each_number_is_another_one_of_128_bits():
    numbers = Numbers()
    given = [numbers.next() for _ in range(3 * NUM_DRAWN)]

    assert len(set(given)) == len(given)
    assert all(re.fullmatch(rb"req_[0-9a-f]{32}", each) for each in given)


def test_processes_that_are_forked_before_the_first_share_none():
    numbers, (end, begin) = Numbers(), os.pipe()
    child = os.fork()
    if not child:
        os.write(begin, b"".join([numbers.next() for _ in range(NUM_DRAWN)]))
        os._exit(0)
    os.waitpid(child, 0)
    theirs = re.findall(rb"req_[0-9a-f]{32}", os.read(end, 1 << 16))
    os.close(end), os.close(begin)

    assert len(theirs) == NUM_DRAWN
    assert not set(theirs) & {numbers.next() for _ in range(NUM_DRAWN)}
