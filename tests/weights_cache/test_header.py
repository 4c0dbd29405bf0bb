"""A header is read whole and checked, or refused with a code and a next step; nothing else ever happens."""

import json
import struct
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evidence import count
from weights_cache.model.header import (
    MAX_HEADER_BYTES,
    MAX_HEADER_MARKS,
    NEXT,
    HeaderError,
    header_end,
    read_header,
)


def file_of(header, num_data_bytes=0):
    """The first bytes and the size of a file with this header (bytes, or a value to be written as JSON)."""
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    prefix = struct.pack("<Q", len(data)) + data
    return prefix, len(prefix) + num_data_bytes


def entry(begin, end, shape=None, dtype="U8"):
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


def refusal(header, num_data_bytes=0):
    prefix, size = file_of(header, num_data_bytes)
    with pytest.raises(HeaderError) as caught:
        read_header(prefix, size)
    return caught.value.code


def test_good_header():
    """Tensors come in file order with absolute offsets; metadata is passed over."""
    header = {
        "__metadata__": {"format": "pt"},
        "b": entry(16, 24, [2], "F32"),
        "a": entry(0, 16, [2, 2], "F32"),
        "none": entry(16, 16, [0, 4], "F32"),
    }
    prefix, size = file_of(header, 24)
    found = read_header(prefix + b"\0" * 24, size)

    assert [tensor.name for tensor in found.tensors] == ["a", "none", "b"]
    assert found.data_start == len(prefix)
    assert found.tensors[2].offset == len(prefix) + 16
    assert found.tensors[2].shape == (2,)


@pytest.mark.parametrize("length", [640, 640 + (1 << 16), 640 + (9 << 16), 8 << 20])
def test_a_header_of_any_length_is_read(length):
    """640 bytes, little-endian, begin as a pickle does: the length alone says nothing of what the file is."""
    data = json.dumps({"a": entry(0, 4)}).encode()
    prefix, size = file_of(data.ljust(length), 4)

    assert [tensor.name for tensor in read_header(prefix, size).tensors] == ["a"]


def test_reads_what_safetensors_writes(tmp_path):
    """The reference writer's file is read, to the byte."""
    numpy = pytest.importorskip("numpy")
    from safetensors.numpy import save

    data = save({"x.weight": numpy.arange(6, dtype="float32").reshape(2, 3), "y": numpy.zeros(3, "int8")})
    found = read_header(data[: header_end(data[:8], len(data))], len(data))
    where = next(tensor for tensor in found.tensors if tensor.name == "x.weight")

    assert where.shape == (2, 3)
    read = numpy.frombuffer(data[where.offset : where.offset + where.length], "float32")
    assert read.tolist() == [0, 1, 2, 3, 4, 5]


def test_scalar_and_no_tensor():
    """A scalar has the empty shape; a header without tensors is a file of its header alone."""
    assert read_header(*file_of({"s": entry(0, 4, [], "F32")}, 4)).tensors[0].shape == ()
    assert read_header(*file_of({})).tensors == ()


HOSTILE = [
    ("header_not_json", b"[]", 0),
    ("header_not_json", b"  {}", 0),
    ("header_not_json", b'{"a":1', 0),
    ("header_not_json", b'{"a":NaN}', 0),
    ("header_not_json", b"\xff\xff", 0),
    ("header_not_json", b"[" * 100_000, 0),
    ("header_not_json", b'{"a":' * 50_000, 0),
    ("header_not_json", b'{"a":{"dtype":"U8","shape":[' + b"9" * 5_000 + b"]}}", 0),
    ("header_not_json", b'{"a":{},"a":{}}', 0),
    ("header_not_json", {"a": {"dtype": "U8", "shape": [1]}}, 1),
    ("header_not_json", {"a": entry(0, 1) | {"more": 1}}, 1),
    ("header_not_json", {"__metadata__": {"a": 1}}, 0),
    ("header_not_json", {"__metadata__": []}, 0),
    ("bad_tensor_name", {"../../etc/x": entry(0, 1)}, 1),
    ("bad_tensor_name", {"": entry(0, 1)}, 1),
    ("bad_tensor_name", {"a" * 257: entry(0, 1)}, 1),
    ("bad_tensor_name", {"a\n": entry(0, 1)}, 1),
    ("bad_tensor_name", {"\ud800": entry(0, 1)}, 1),
    ("unknown_dtype", {"a": entry(0, 1, dtype="F12")}, 1),
    ("unknown_dtype", {"a": entry(0, 1, dtype=["U8"])}, 1),
    ("bad_shape", {"a": entry(0, 1, [1] * 9)}, 1),
    ("bad_shape", {"a": entry(0, 1, [True])}, 1),
    ("bad_shape", {"a": entry(0, 1, [-1])}, 1),
    ("bad_shape", {"a": entry(0, 1, [1.0])}, 1),
    ("bad_shape", {"a": entry(0, 1, [2])}, 1),
    ("bad_shape", {"a": entry(0, 0, [2**53 - 1] * 8)}, 0),
    ("bad_offsets", {"a": entry(0, 1) | {"data_offsets": [1, 0]}}, 1),
    ("bad_offsets", {"a": entry(0, 1) | {"data_offsets": [0]}}, 1),
    ("bad_offsets", {"a": entry(0, 1) | {"data_offsets": 1}}, 1),
    ("bad_offsets", {"a": entry(0, 1) | {"data_offsets": [False, 1]}}, 1),
    ("bad_offsets", {"a": entry(1, 2)}, 2),
    ("bad_offsets", {"a": entry(0, 2), "b": entry(1, 3)}, 3),
    ("bad_offsets", {"a": entry(0, 2), "b": entry(0, 2)}, 2),
    ("size_mismatch", {"a": entry(0, 2)}, 1),
    ("size_mismatch", {"a": entry(0, 2)}, 3),
    ("size_mismatch", {}, 1),
    ("size_mismatch", {"a": entry(0, 2**53 - 1)}, 1),
    ("too_many_tensors", {f"t{index}": entry(0, 0) for index in range(65_537)}, 0),
]


@pytest.mark.parametrize(("code", "header", "num_data_bytes"), HOSTILE)
def test_hostile_header(code, header, num_data_bytes):
    """Each lie is refused with its own code."""
    assert refusal(header, num_data_bytes) == code


@pytest.mark.parametrize(
    ("code", "first", "size"),
    [
        ("header_truncated", b"", 0),
        ("header_truncated", b"\0" * 7, 100),
        ("header_not_json", b"\0" * 64, 64),
        ("header_too_large", struct.pack("<Q", MAX_HEADER_BYTES + 1), 1 << 40),
        ("header_too_large", b"\xff" * 8, 100),
        ("header_truncated", struct.pack("<Q", 93) + b"{" * 92, 100),
        ("header_truncated", struct.pack("<Q", 50) + b"{" * 20, 100),
        ("lfs_pointer", b"version https://git-lfs.github.com/spec/v1\n", 133),
        ("not_safetensors", b"PK\x03\x04" + b"\0" * 60, 64),
        ("not_safetensors", b"\x80\x02}q\x00" + b"\0" * 60, 65),
    ],
)
def test_first_bytes(code, first, size):
    """What is wrong with the first eight bytes is said before anything more is read."""
    with pytest.raises(HeaderError) as caught:
        read_header(first, size)

    assert caught.value.code == code
    assert caught.value.next_step == NEXT[code]


def test_memory_is_bounded():
    """A 16 MiB header made to be expensive is refused on its marks, before JSON builds a value of it."""
    data = b'{"a":[' + b'"ab",' * (3 << 20) + b'"z"]}'
    assert data.count(b",") > MAX_HEADER_MARKS
    tracemalloc.start()
    try:
        assert refusal(data) == "too_many_tensors"
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


GOOD, GOOD_SIZE = file_of({"a.weight": entry(0, 16, [2, 2], "F32"), "b": entry(16, 20, [2], "BF16")}, 20)


@settings(max_examples=count(120, 10_000))
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_mutated_header_is_read_or_refused(changes):
    """No mutation raises anything but HeaderError, and what is read covers the data exactly."""
    mutated = bytearray(GOOD)
    for place, value in changes:
        mutated[place] = value
    try:
        found = read_header(bytes(mutated), GOOD_SIZE)
    except HeaderError:
        return

    assert sum(tensor.length for tensor in found.tensors) == found.size - found.data_start
    assert found.size == GOOD_SIZE
