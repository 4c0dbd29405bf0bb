"""The Triton kernels against plain torch, in Triton's interpreter: no GPU, the same program.

Triton comes with torch's CUDA build. Where that is not, it may lie in a folder (`bench/engines/triton.txt`), named by
NEARFIELD_TRITON; without either, these tests are skipped.
"""

import importlib
import os
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.engine.gpu.paged import Queries
from inference.engine.steps.pages import PAGE_TOKENS
from tests.evidence import count
from tests.inference.paged_reference import ReferenceKernels

NAME = "inference.engine.gpu.kernels"
PARTS = tuple(f"inference.engine.gpu.{part}_kernel" for part in ("attend", "norm"))
TOLERANCE = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


@pytest.fixture(scope="module")
def kernels():
    """The module as the interpreter runs it: which way is decided when it is imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        if folder := os.environ.get("NEARFIELD_TRITON"):
            patch.setattr(sys, "path", [*sys.path, folder])
        pytest.importorskip(
            "triton", reason="no Triton: torch's CPU build has none, and NEARFIELD_TRITON names none"
        )
        for name in (NAME, *PARTS):
            patch.delitem(sys.modules, name, raising=False)
        yield importlib.import_module(NAME)
        for name in (NAME, *PARTS):  # the next one to import it may have a GPU
            del sys.modules[name]


@st.composite
def steps(draw, most_tokens):
    """Rows in blocks that lie anywhere, garbage in every place that nobody may read."""
    dtype = draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
    num_kv, group = draw(st.sampled_from([(1, 1), (1, 5), (2, 2), (3, 1), (1, 8), (2, 3)]))
    key_size = draw(st.sampled_from([8, 16, 24, 64, 80]))
    value_size = draw(st.sampled_from([key_size, 16]))
    rows = draw(st.lists(st.tuples(st.integers(0, 70), st.integers(1, most_tokens)), min_size=1, max_size=3))
    return {
        "dtype": dtype,
        "shape": (num_kv, group, key_size, value_size),
        "rows": rows,
        "window": draw(st.sampled_from([1000, 1000, 7, 16, 33])),
        "softcap": draw(st.sampled_from([None, None, 3.0])),
        "has_sinks": draw(st.booleans()),
        "processors": draw(st.sampled_from([1, 2, 7])),
        "seed": draw(st.integers(0, 2**31)),
    }


def asked(made, draws):
    """The tensors of one step: what was there before it, and what it brings."""
    num_kv, group, key_size, value_size = made["shape"]
    dtype, rows = made["dtype"], made["rows"]
    num_slots = len(rows) + 2
    per_row = 1 + max(start + count for start, count in rows) // PAGE_TOKENS
    num_blocks = num_slots * per_row
    tables = torch.randperm(num_blocks, generator=draws).view(num_slots, per_row).int()
    pages = [
        torch.full((num_blocks, num_kv, PAGE_TOKENS, size), torch.nan, dtype=dtype)
        for size in (key_size, value_size)
    ]
    slots = torch.randperm(num_slots, generator=draws)[: len(rows)]
    counts = torch.tensor([count for _, count in rows])
    starts = torch.tensor([start for start, _ in rows])
    firsts = counts.cumsum(0) - counts
    sinks = torch.randn(num_kv * group, generator=draws).to(dtype) if made["has_sinks"] else None
    queries = Queries(
        *(tables, slots, firsts, counts, starts, int(counts.max()), key_size**-0.5),
        *(made["softcap"], made["window"], sinks),
    )

    def some(*shape):
        return torch.randn(*shape, generator=draws).to(dtype)

    return queries, pages, some


def fill(kernels, queries, pages, some, num_kv):
    """Write all that the rows hold, their own tokens included, in one call; gives what was written."""
    ends = (queries.starts + queries.counts).tolist()
    slots = torch.cat([queries.slots[row].repeat(end) for row, end in enumerate(ends)])
    positions = torch.cat([torch.arange(end) for end in ends])
    keys = some(len(slots), num_kv, pages[0].shape[3]).transpose(0, 1)
    values = some(len(slots), num_kv, pages[1].shape[3]).transpose(0, 1)
    kernels.write(keys, values, pages, queries.tables, slots, positions)


def check(ours, made):
    """Both write, then both attend, over what was written."""
    draws = torch.Generator().manual_seed(made["seed"])
    queries, pages, some = asked(made, draws)
    num_kv, group, key_size, value_size = made["shape"]
    plain = ReferenceKernels()
    state = draws.get_state()
    fill(ours, queries, pages, some, num_kv)
    draws.set_state(state)
    wanted_pages = [torch.full_like(each, torch.nan) for each in pages]
    fill(plain, queries, wanted_pages, some, num_kv)
    for page, wanted in zip(pages, wanted_pages, strict=True):
        assert torch.equal(page.nan_to_num(777.0), wanted.nan_to_num(777.0))
    tokens = some(num_kv * group, int(queries.counts.sum()), key_size).transpose(0, 1)
    found, expected = (
        torch.full((len(tokens), num_kv * group, value_size), torch.nan, dtype=made["dtype"])
        for _ in range(2)
    )
    ours.attend(tokens, tuple(pages), queries, found)
    plain.attend(tokens, tuple(pages), queries, expected)
    tolerance = TOLERANCE[made["dtype"]]
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@settings(max_examples=count(8, 600), deadline=None)
@given(made=steps(most_tokens=1))
def test_one_token_a_row(kernels, made):
    """Decode: split among several programs where the device would be idle, or not."""
    check(kernels.TritonKernels(made["processors"]), made)


@settings(max_examples=count(4, 300), deadline=None)
@given(made=steps(most_tokens=40))
def test_many_tokens_a_row(kernels, made):
    """Prompts: every query looks as far as its own position and no farther."""
    check(kernels.TritonKernels(made["processors"]), made)


def test_how_far_a_row_is_split_depends_on_the_shape_alone(kernels):
    one = kernels.TritonKernels(132)
    assert [one._splits(num) for num in (1, 8, 64, 256, 600, 10_000)] == [64, 64, 8, 2, 1, 1]
