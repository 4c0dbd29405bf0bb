"""100,000 headers that somebody has been at: each is read or refused, quickly forgotten, and never anything else.

The mutations are what editors, broken uploads and attackers do: bytes turned, cut, doubled and spliced, the length
field lied about, numbers made huge, keys doubled, values nested and exchanged for ones of another kind.
"""

import json
import random
import struct
import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from tests.evidence import count
from weights_cache.model.header import MAX_HEADER_BYTES, HeaderError, read_header

NUM_HEADERS = count(1_500, 100_000)
MOST_BYTES = 8 << 20  # of memory at any moment: the largest header here is some kilobytes
DATA_BYTES = 4_096
ODD = [
    *(
        b"-1",
        b"1.5",
        b"1e99",
        b"9" * 17,
        b"9" * 4_400,
        b"NaN",
        b"Infinity",
        b"true",
        b"null",
        b'""',
        b"[]",
        b"{}",
    ),
    *(
        b"[" * 3_000,
        b'{"a":' * 2_000,
        b'"\\ud800"',
        b'"../../etc/x"',
        b'"F4"',
        b"\xff\xfe",
        b"\x00",
        b"18446744073709551616",
    ),
]


def good(rng):
    """A header of a few tensors that fit together, and the size of its file."""
    header, at = {}, 0
    for number in range(rng.randint(1, 6)):
        size = rng.choice([0, 2, 8, 64])
        header[f"model.layers.{number}.w"] = {
            "dtype": rng.choice(["U8", "BOOL", "I8"]),
            "shape": [size],
            "data_offsets": [at, at + size],
        }
        at += size
    if rng.random() < 0.3:
        header["__metadata__"] = {"format": "pt"}
    return json.dumps(header).encode(), at


def turned(rng, data):
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(data))
        data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    return data


def cut(rng, data):
    first, last = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:first] + data[last:]


def doubled(rng, data):
    first, last = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:last] + data[first:last] * rng.randint(1, 5) + data[last:]


def odd(rng, data):
    """A value exchanged for one of another kind, where JSON expects one."""
    places = [at + 1 for at, byte in enumerate(data) if byte in b":,["]
    first = rng.choice(places) if places else 0
    last = next((at for at in range(first, len(data)) if data[at] in b",]}"), len(data))
    return data[:first] + rng.choice(ODD) + data[last:]


def spliced(rng, data):
    other, _ = good(rng)
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other)) :]


MUTATIONS = (turned, cut, doubled, odd, spliced)


def mutated(rng):
    """(first bytes, size of the file) of one that was good before."""
    data, num_bytes = good(rng)
    for _ in range(rng.randint(1, 3)):
        data = rng.choice(MUTATIONS)(rng, data) or b"{}"
    length = (
        len(data)
        if rng.random() < 0.9
        else rng.choice([0, 1, len(data) + 1, MAX_HEADER_BYTES, 2**63, 2**64 - 1])
    )
    size = 8 + len(data) + (num_bytes if rng.random() < 0.8 else rng.randrange(DATA_BYTES))
    return struct.pack("<Q", length) + data, size


def walked():
    """(codes of the refusals, number of headers read, most bytes of memory) of all mutations."""
    rng, codes, num_read = random.Random(20261126), set(), 0
    tracemalloc.start()
    for _ in range(NUM_HEADERS):
        prefix, size = mutated(rng)
        try:
            header = read_header(prefix, size)
        except HeaderError as error:
            codes.add(error.code)
            continue
        num_read += 1
        assert sum(tensor.length for tensor in header.tensors) == size - header.data_start
        assert all(tensor.offset + tensor.length <= size for tensor in header.tensors)
    return codes, num_read, tracemalloc.get_traced_memory()[1]


def test_every_mutation_is_read_or_refused_in_bounded_memory():
    """In a process of its own: what other tests' threads take here would count too."""
    with ProcessPoolExecutor(1, get_context("spawn")) as alone:
        codes, num_read, peak_bytes = alone.submit(walked).result(600)

    assert peak_bytes < MOST_BYTES
    assert (
        num_read > NUM_HEADERS // 1_000
    )  # some mutations hit nothing that counts: the check is not of refusals only
    assert {"header_not_json", "bad_tensor_name", "unknown_dtype", "bad_shape", "bad_offsets"} <= codes
    assert {"header_truncated", "header_too_large", "size_mismatch"} <= codes
