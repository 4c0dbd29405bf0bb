"""Packed products: the same numbers, on any number of threads, and never before the first pass."""

import ctypes
import mmap
from pathlib import Path

import pytest
import torch
from torch import nn

from inference.engine.linear import packing as engine_packing
from inference.engine.linear.joined import product_of
from inference.engine.linear.packing import (
    MOST_QUIET_S,
    PASS_BYTES,
    QUIET_S,
    Growth,
    PackedLinear,
    pack_products,
    span_of,
)
from inference.engine.model import SlotModel
from inference.engine.steps.events import Segment
from inference.engine.steps.slots import SlotPlan
from tests.inference.tiny import made
from weights_cache.memory import pages

IN, OUT = 600, 1000
AMPLE = 1 << 30


def layers(count=1, *, bias=False, dtype=torch.float32, size=OUT, given=IN):
    torch.manual_seed(3)
    return nn.Sequential(*(nn.Linear(given, size, bias=bias, dtype=dtype) for _ in range(count)))


def packed(model):
    """The model with all copies made."""
    packing = pack_products(model, AMPLE)
    model(torch.zeros(1, model[0].in_features))
    while packing.is_wanted:
        packing.go_on(0.0)
    return model


def num_packed(model):
    return sum(each.packed is not None for each in model)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (3, 1), (), (0,), (2, 8), (1, 33), (300,)])
def test_numbers_are_the_same(bias, shape):
    model = layers(bias=bias)
    given = torch.randn(*shape, IN)
    with torch.inference_mode():
        straight = model(given)
        found = packed(model)(given)

    assert type(model[0]) is PackedLinear
    assert num_packed(model) == 1
    assert found.shape == straight.shape
    assert torch.allclose(found, straight, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_rows", [1, 3, 12])
def test_input_may_lie_in_any_way(num_rows):
    model = layers()
    given = torch.randn(IN, num_rows).t()[None]
    with torch.inference_mode():
        straight = model(given)
        assert torch.allclose(packed(model)(given), straight, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_rows", [1, 3, 16, 33, 300])
@pytest.mark.parametrize("size", [200, 2000])
def test_the_number_of_threads_changes_no_bit(num_rows, size):
    model, before = packed(layers(size=size)), torch.get_num_threads()
    given, found = torch.randn(1, num_rows, IN), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            with torch.inference_mode():
                found.append(model(given))
    finally:
        torch.set_num_threads(before)

    assert torch.equal(*found)


def test_weights_stay_where_they_are():
    model = layers()
    before = model[0].weight.data_ptr(), set(model.state_dict())
    packed(model)
    assert (model[0].weight.data_ptr(), set(model.state_dict())) == before


def huge_kib(address):
    """KiB in huge pages of the mapping that an address lies in."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    heads = {n: line.split()[0].split("-") for n, line in enumerate(lines) if ":" not in line.split()[0]}
    own = next(n for n, (low, high) in heads.items() if int(low, 16) <= address < int(high, 16))
    return next(int(line.split()[1]) for line in lines[own:] if line.startswith("AnonHugePages"))


def makes_huge_pages():
    region = pages.reserve(pages.HUGE_BYTES)
    pages.advise(region, 0, pages.HUGE_BYTES, pages.POPULATE_WRITE)
    return pages.advise(region, 0, pages.HUGE_BYTES, pages.COLLAPSE) == 0


@pytest.mark.skipif(not makes_huge_pages(), reason="a kernel that makes no huge pages when asked")
def test_copies_lie_in_huge_pages():
    model = packed(layers(size=4096, given=2048))
    address, num_bytes = span_of(model[0].packed)
    assert num_bytes >= model[0].weight.nbytes
    assert huge_kib(address) > 0


@pytest.mark.skipif(not makes_huge_pages(), reason="a kernel that makes no huge pages when asked")
def test_what_lies_across_two_huge_pages_is_in_both():
    """As tensors on a heap do: of one of their size none would lie in it whole."""
    region = pages.reserve(2 * pages.HUGE_BYTES)
    pages.advise(region, 0, len(region), pages.POPULATE_WRITE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(region))
    assert pages.collapse_own(address + pages.HUGE_BYTES // 2, pages.HUGE_BYTES) == 0
    assert huge_kib(address) >= len(region) // 1024


@pytest.mark.skipif(not makes_huge_pages(), reason="a kernel that makes no huge pages when asked")
def test_a_neighbour_that_cannot_be_collapsed_keeps_none_from_it(tmp_path):
    """A file's page before the span and one behind it: where the kernel finds one it goes no further."""
    (tmp_path / "file").write_bytes(bytes(8192))
    region = pages.reserve(4 * pages.HUGE_BYTES)
    pages.advise(region, 0, len(region), pages.POPULATE_WRITE)
    address, half = ctypes.addressof(ctypes.c_char.from_buffer(region)), pages.HUGE_BYTES // 2
    with (tmp_path / "file").open("rb") as file:
        for at in (half - 4096, 3 * pages.HUGE_BYTES + half):
            pages.lay(region, at, file.fileno(), 0, 4096, mmap.MAP_PRIVATE)
    pages.collapse_own(address + half, 3 * pages.HUGE_BYTES)
    assert huge_kib(address + pages.HUGE_BYTES) >= 2 * pages.HUGE_BYTES // 1024


def test_nothing_is_packed_before_the_first_pass():
    """Until then weights may not have landed, and the first answer is waited for."""
    model = layers()
    packing = pack_products(model, AMPLE)
    assert not packing.is_wanted
    model(torch.zeros(1, IN))
    assert num_packed(model) == 0
    assert packing.is_wanted


def test_a_little_is_packed_at_a_time():
    size = PASS_BYTES // 4 // OUT // 2 + 1  # two layers of these at once
    model = layers(5, size=OUT, given=size)
    for each in list(model)[1:]:
        each.forward = lambda given: given  # a pass of one product
    packing = pack_products(model, AMPLE)
    counts = []
    for _ in range(4):
        model(torch.zeros(1, size))
        counts.append(num_packed(model))
        packing.go_on(0.0)

    assert counts == [0, 2, 4, 5]
    assert not packing.is_wanted


def test_it_waits_for_a_moment_of_quiet():
    """The very first copy too: the second request is the one that comes right after a start."""
    packing = pack_products(layers(2), AMPLE)
    packing.answered(10.0)
    assert packing.patience_s(10.0) == pytest.approx(QUIET_S)
    assert packing.patience_s(10.0 + 2 * QUIET_S) == 0
    packing.go_on(10.0 + 2 * QUIET_S)
    assert packing.patience_s(10.0 + 2 * QUIET_S) == 0


def test_it_does_not_wait_for_ever():
    """Beside somebody who asks answer by answer and leaves no moment of quiet."""
    packing = pack_products(layers(2), AMPLE)
    packing.go_on(10.0)
    for now in (10.2, 10.4, 10.6, 10.8, 10.95):
        packing.answered(now)
        assert packing.patience_s(now) == pytest.approx(min(QUIET_S, 10.0 + MOST_QUIET_S - now))
    assert packing.patience_s(10.0 + MOST_QUIET_S) == 0


@pytest.mark.parametrize(
    ("kept", "budget"),
    [
        (layers(dtype=torch.bfloat16), AMPLE),
        (layers(size=10), AMPLE),
        (layers(2), 2 * 4 * IN * OUT - 1),
        (layers(), 0),
    ],
    ids=["another dtype", "small", "not enough for both", "nothing to spend"],
)
def test_others_are_left_alone(kept, budget):
    assert pack_products(kept, budget) is None
    assert {type(each) for each in kept} == {nn.Linear}


def fresh(num_bytes):
    """Memory that is a process' own and new to it: a tensor may get what an earlier test gave back."""
    return mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


@pytest.mark.skipif(not pages.own_spans(), reason="this kernel does not tell where memory lies")
def test_memory_taken_since_is_gone_about_as_copies_are():
    """Each piece is asked for once, a pass' worth at a time, and what it holds stays."""
    growth = Growth()
    taken = torch.frombuffer(fresh(6 * PASS_BYTES), dtype=torch.float32)
    taken.copy_(torch.arange(3 * PASS_BYTES // 4, dtype=torch.float32).repeat(2))
    pieces, model = growth.pieces(), layers()
    assert sum(each._num_bytes for each in pieces) > taken.nbytes - 2 * PASS_BYTES
    packing = pack_products(model, AMPLE, pieces)
    assert not packing.is_wanted, "nobody has an answer yet"
    model(torch.zeros(1, IN))
    for _ in range(len(pieces) + 1):
        packing.go_on(0.0)
    assert not packing.is_wanted
    assert num_packed(model) == 1
    assert torch.equal(taken, torch.arange(3 * PASS_BYTES // 4, dtype=torch.float32).repeat(2))


def test_pieces_alone_are_something_to_do():
    assert pack_products(layers(), 0) is None
    assert pack_products(layers(), 0, Growth().pieces() or [None]) is not None


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2"])
def test_queries_keys_and_values_are_one_copy(family, monkeypatch):
    """Biases and steps of any size included; in the last layer, which leaves out rows, as well."""
    monkeypatch.setattr(engine_packing, "LEAST_WEIGHTS", 1)
    steps = (
        (Segment("a", 0, 0, tuple(range(3, 30)), True, ()),),
        (Segment("a", 0, 27, (5,), True, ()),),
        (Segment("a", 0, 28, (6,), True, ()), Segment("b", 1, 0, (7, 8, 9), True, ())),
    )
    model, usual = made(family), SlotModel(made(family), SlotPlan(3, 64, 0))
    packing = pack_products(model, AMPLE)
    rows = SlotModel(model, SlotPlan(3, 64, 0))
    for number, step in enumerate(steps):
        torch.testing.assert_close(rows.forward(step)[1], usual.forward(step)[1], rtol=1e-4, atol=1e-4)
        while number == 0 and packing.is_wanted:
            packing.go_on(0.0)
    attention = model.base_model.layers[0].self_attn
    own = (attention.q_proj, attention.k_proj, attention.v_proj)
    assert product_of(*own) is not None
    assert all(each.packed is None for each in own)
    assert attention.o_proj.packed is not None
