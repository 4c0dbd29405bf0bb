"""A request is the same wherever the network cuts it."""

import random

import pytest

from tests.attack.http import requests
from tests.attack.http.payloads import payloads
from tests.attack.http.readers import by_gate
from tests.evidence import count

NUM_REQUESTS = count(24, 200)
NUM_PAIRS = count(20, 1_000)  # of cuts, for each
ALL_REFUSED = payloads()
NUM_REFUSED = count(40, len(ALL_REFUSED))


@pytest.mark.parametrize("seed", range(NUM_REQUESTS))
def test_every_cut_gives_the_same_requests(seed):
    rng = random.Random(seed)
    stream = requests.stream(rng)
    whole = by_gate([stream]).reads()
    places = range(1, len(stream))

    assert whole
    for cut in places:
        assert by_gate([stream[:cut], stream[cut:]]).reads() == whole, cut
    for _ in range(NUM_PAIRS):
        one, two = sorted(rng.choices(places, k=2))
        assert by_gate([stream[:one], stream[one:two], stream[two:]]).reads() == whole, (one, two)
    assert by_gate([stream[i : i + 1] for i in range(len(stream))]).reads() == whole


def test_what_is_refused_whole_is_refused_in_pieces():
    """Never read as another request; in pieces a head may be here before its body is found to be bad."""
    rng = random.Random(0)
    for name in rng.sample(sorted(ALL_REFUSED), NUM_REFUSED):
        stream = ALL_REFUSED[name]
        whole = by_gate([stream])
        for cut in rng.sample(range(1, len(stream)), min(len(stream) - 1, 60)):
            parts = by_gate([stream[:cut], stream[cut:]])
            assert parts.reads()[: parts.num_whole] == whole.reads()[: whole.num_whole], (name, cut)
            assert (parts.refusal is None) == (whole.refusal is None), (name, cut)
