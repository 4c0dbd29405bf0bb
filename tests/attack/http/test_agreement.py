"""No bytes mean two things: what the gate lets through, h11 and llhttp read alike, before and behind our relay.

NEARFIELD_SMUGGLING names a folder with payloads of other people's to replay too (see corpus.py).
"""

import random
import time

import pytest

from tests.attack.http import corpus, mutate, requests
from tests.attack.http.agree import check
from tests.attack.http.payloads import payloads
from tests.evidence import count

PAYLOADS = payloads()
NUM_MUTATED = count(1_500, 1_000_000)
NUM_SHARDS = 4  # so that a run can be cut in pieces: -k shard0
HANG_S = 1.0  # of processor time: a request costs a fifth of a millisecond
MEANT_AS_SAID = {"lengths: none", "lengths: too much sent"}  # the second request is not hidden at all


def test_no_payload_means_two_things():
    readings = {name: check(data) for name, data in PAYLOADS.items()}

    refused = sum(reading.refusal is not None for reading in readings.values())
    assert len(readings) > 2000
    assert refused > len(readings) * 0.9, "they are attacks: nearly all are refused as such"
    assert all(readings[name].num_whole == 2 for name in MEANT_AS_SAID)


def test_payloads_of_others_mean_one_thing():
    found = corpus.payloads()
    if not found:
        pytest.skip("NEARFIELD_SMUGGLING names no folder with payloads")
    failed = {}
    for name, data in found.items():
        try:
            check(data)
        except AssertionError as error:
            failed[name] = (data, error)
    assert failed == {}


@pytest.mark.parametrize("shard", range(NUM_SHARDS), ids=[f"shard{i}" for i in range(NUM_SHARDS)])
def test_no_mutated_request_means_two_things(shard):
    """The seed of a case is its number, so a failing one can be made again alone."""
    num_refused = num_whole = 0
    for seed in range(shard, NUM_MUTATED, NUM_SHARDS):
        rng = random.Random(seed)
        data = mutate.mutated(rng, requests.stream(rng), mutate.REQUESTS)
        began = time.thread_time()
        try:
            reading = check(data)
        except Exception as error:
            raise AssertionError(f"case {seed}: {data!r}") from error
        assert time.thread_time() - began < HANG_S, (seed, data)
        num_refused += reading.refusal is not None
        num_whole += reading.num_whole
    assert num_refused > NUM_MUTATED / NUM_SHARDS / 3, "the changes do break requests"
    assert num_whole > NUM_MUTATED / NUM_SHARDS / 5, "and leave enough of them whole"
