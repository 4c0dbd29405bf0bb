"""The GPU's own part of attention, in Triton: keys and values to their pages, and attention over a table of pages.

Imported only where there is a CUDA device: torch's CUDA build brings Triton with it, its CPU build does not. What each
kernel must give is said in plain torch by `tests/inference/paged_reference.py`, and held in Triton's interpreter.

One kernel serves a row's one new token and a prompt's many. A program computes a tile of queries of one KV head: the
query heads that share it lie side by side in the tile, so each key is read once for all of them. Where there are too
few tiles to fill the device (a few rows with one token each), the positions of a row are *split* among several
programs, which leave a partial sum and the logarithm of its weight; a second kernel joins them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from inference.engine.norm_kernel import normalise
from inference.engine.pages import PAGE_TOKENS

if TYPE_CHECKING:
    from inference.engine.paged import Queries

SPREAD = 4
"""Programs that a launch should have for each multiprocessor: fewer leave some of it idle at the end."""
MAX_SPLITS = 64
"""A power of two. How many there are is no constant of a kernel: each such value costs a compilation of a second."""
ONE_ROWS, ONE_BYTES = 16, 32 * 1024
"""Of one program, if each row has one token: queries, heads counted (a matrix product has 16 at least), and bytes of
keys that it reads at once; values as many. It waits for memory: on an H200 256 rows of 640 tokens are read at 3.6 TB/s,
with half as many bytes at 3.4."""
MANY_ROWS, MANY_BYTES = 64, 16 * 1024
"""The same if a row has many: it waits for arithmetic. All fits in the 100 KiB of shared memory that any GPU has."""
WIDE_ROWS, WIDE_BYTES = 32, 16 * 1024
"""In float32 at most so many: its products are done in registers, which more would overflow."""


@triton.jit
def _write(
    keys: tl.tensor,
    values: tl.tensor,
    key_pages: tl.tensor,
    value_pages: tl.tensor,
    tables: tl.tensor,
    slots: tl.tensor,
    positions: tl.tensor,
    table_stride: tl.tensor,
    key_stride: tl.tensor,
    value_stride: tl.tensor,
    key_head_stride: tl.tensor,
    value_head_stride: tl.tensor,
    key_size: tl.constexpr,
    value_size: tl.constexpr,
    key_block: tl.constexpr,
    value_block: tl.constexpr,
    page_tokens: tl.constexpr,
) -> None:
    """One token and one KV head: its key and value go to the page that holds its position."""
    token, head, num_heads = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    position = tl.load(positions + token)
    page = tl.load(tables + tl.load(slots + token) * table_stride + position // page_tokens).to(tl.int64)
    place = (page * num_heads + head) * page_tokens + position % page_tokens
    at = tl.arange(0, key_block)
    key = tl.load(keys + token * key_stride + head * key_head_stride + at, mask=at < key_size)
    tl.store(key_pages + place * key_size + at, key, mask=at < key_size)
    at = tl.arange(0, value_block)
    value = tl.load(values + token * value_stride + head * value_head_stride + at, mask=at < value_size)
    tl.store(value_pages + place * value_size + at, value, mask=at < value_size)


@triton.jit(do_not_specialize=["window", "num_tiles", "num_tokens"])
def _attend(  # noqa: PLR0915 - a kernel is one piece
    queries: tl.tensor,
    key_pages: tl.tensor,
    value_pages: tl.tensor,
    found: tl.tensor,
    weights: tl.tensor,
    tables: tl.tensor,
    slots: tl.tensor,
    firsts: tl.tensor,
    counts: tl.tensor,
    starts: tl.tensor,
    sinks: tl.tensor,
    scale: tl.tensor,
    softcap: tl.tensor,
    window: tl.tensor,
    num_tiles: tl.tensor,
    num_tokens: tl.tensor,
    table_stride: tl.tensor,
    query_stride: tl.tensor,
    query_head_stride: tl.tensor,
    group: tl.constexpr,
    key_size: tl.constexpr,
    value_size: tl.constexpr,
    key_block: tl.constexpr,
    value_block: tl.constexpr,
    tile_rows: tl.constexpr,
    tile_keys: tl.constexpr,
    page_tokens: tl.constexpr,
    is_split: tl.constexpr,
    has_sinks: tl.constexpr,
    has_softcap: tl.constexpr,
    precision: tl.constexpr,
    widens: tl.constexpr,
) -> None:
    """One tile of queries, one KV head, one split.

    `found` is [splits, tokens, heads, value size]; `weights`, [splits, tokens, heads], is not written where there is
    one split: then `found` has the answer itself.
    """
    row, tile = tl.program_id(0) // num_tiles, tl.program_id(0) % num_tiles
    kv_head, num_kv = tl.program_id(1), tl.num_programs(1)
    split, num_splits = tl.program_id(2), tl.num_programs(2)
    tile_tokens: tl.constexpr = tile_rows // group
    count = tl.load(counts + row)
    if tile * tile_tokens >= count:
        return
    slot, first, start = tl.load(slots + row), tl.load(firsts + row), tl.load(starts + row)

    at = tl.arange(0, tile_rows)
    own = tile * tile_tokens + at // group  # each query's token within the row
    head = kv_head * group + at % group
    is_query = (at < tile_tokens * group) & (own < count)
    token = first + own
    size_at, value_at = tl.arange(0, key_block), tl.arange(0, value_block)
    query = tl.load(
        queries + token[:, None] * query_stride + head[:, None] * query_head_stride + size_at[None, :],
        mask=is_query[:, None] & (size_at < key_size)[None, :],
        other=0.0,
    )
    if widens:
        query = query.to(tl.float32)
    place = start + own
    end = start + tl.minimum((tile + 1) * tile_tokens, count)
    begin = tl.maximum(start + tile * tile_tokens + 1 - window, 0)
    part = tl.cdiv(tl.cdiv(end - begin, num_splits), tile_keys) * tile_keys
    low = begin + split * part
    high = tl.minimum(low + part, end)

    largest = tl.full([tile_rows], float("-inf"), tl.float32)
    total = tl.zeros([tile_rows], tl.float32)
    if has_sinks and split == 0:  # a sink is a weight with nothing behind it
        largest = tl.load(sinks + head, mask=is_query, other=0.0).to(tl.float32)
        total = tl.full([tile_rows], 1.0, tl.float32)
    answer = tl.zeros([tile_rows, value_block], tl.float32)
    for near in range(low, high, tile_keys):
        position = near + tl.arange(0, tile_keys)
        is_there = position < high
        page = tl.load(tables + slot * table_stride + position // page_tokens, mask=is_there, other=0)
        stored = (page.to(tl.int64) * num_kv + kv_head) * page_tokens + position % page_tokens
        key = tl.load(
            key_pages + stored[None, :] * key_size + size_at[:, None],
            mask=is_there[None, :] & (size_at < key_size)[:, None],
            other=0.0,
        )
        if widens:
            key = key.to(tl.float32)
        score = tl.dot(query, key, input_precision=precision) * scale
        if has_softcap:
            grown = tl.exp(-2.0 * tl.abs(score / softcap))  # tanh, which has no overflow this way round
            score = tl.where(score < 0, -softcap, softcap) * ((1.0 - grown) / (1.0 + grown))
        looks = is_there[None, :] & (position[None, :] <= place[:, None])
        looks = looks & (position[None, :] > place[:, None] - window)
        score = tl.where(looks, score, float("-inf"))
        larger = tl.maximum(largest, tl.max(score, 1))
        level = tl.where(larger == float("-inf"), 0.0, larger)
        share = tl.exp(score - level[:, None])
        fade = tl.exp(largest - level)
        value = tl.load(
            value_pages + stored[:, None] * value_size + value_at[None, :],
            mask=is_there[:, None] & (value_at < value_size)[None, :],
            other=0.0,
        )
        rounded = share.to(value.dtype)
        if widens:
            rounded, value = rounded.to(tl.float32), value.to(tl.float32)
        answer = answer * fade[:, None] + tl.dot(rounded, value, input_precision=precision)
        total = total * fade + tl.sum(share, 1)
        largest = larger

    is_empty = total == 0.0  # a split behind the row's end, or a window that begins after it
    total = tl.where(is_empty, 1.0, total)
    answer = answer / total[:, None]
    num_heads = num_kv * group
    out = (split * num_tokens + token) * num_heads + head
    keep = is_query[:, None] & (value_at < value_size)[None, :]
    tl.store(
        found + out.to(tl.int64)[:, None] * value_size + value_at[None, :],
        answer.to(found.dtype.element_ty),
        mask=keep,
    )
    if is_split:
        tl.store(weights + out, tl.where(is_empty, float("-inf"), tl.log(total) + largest), mask=is_query)


@triton.jit(do_not_specialize=["num_tokens", "num_splits"])
def _join(
    parts: tl.tensor,
    weights: tl.tensor,
    found: tl.tensor,
    num_tokens: tl.tensor,
    num_splits: tl.tensor,
    value_size: tl.constexpr,
    value_block: tl.constexpr,
    most_splits: tl.constexpr,
) -> None:
    """One token and one head: its splits' answers, each by its weight."""
    token, head, num_heads = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    split, at = tl.arange(0, most_splits), tl.arange(0, value_block)
    place = (split * num_tokens + token) * num_heads + head
    weight = tl.load(weights + place, mask=split < num_splits, other=float("-inf"))
    share = tl.exp(weight - tl.max(weight, 0))
    share = share / tl.sum(share, 0)
    keep = (split < num_splits)[:, None] & (at < value_size)[None, :]
    part = tl.load(parts + place.to(tl.int64)[:, None] * value_size + at[None, :], mask=keep, other=0.0)
    answer = tl.sum(part * share[:, None], 0)
    tl.store(
        found + (token * num_heads + head).to(tl.int64) * value_size + at,
        answer.to(found.dtype.element_ty),
        mask=at < value_size,
    )


class TritonKernels:
    """`inference.engine.paged.Kernels` of one device with so many multiprocessors."""

    normalise = staticmethod(normalise)

    def __init__(self, num_processors: int) -> None:
        self._num_wanted = SPREAD * num_processors
        self._widens = (
            triton.knobs.runtime.interpret
        )  # which multiplies bfloat16 as if its bits were whole numbers

    def write(
        self,
        keys: torch.Tensor,
        values: torch.Tensor,
        pages: tuple[torch.Tensor, torch.Tensor],
        tables: torch.Tensor,
        slots: torch.Tensor,
        positions: torch.Tensor,
    ) -> None:
        """See `Kernels`."""
        (key_pages, value_pages), (num_heads, num_tokens, key_size) = pages, keys.shape
        keys, values = _dense(keys), _dense(values)
        _write[num_tokens, num_heads](
            *(keys, values, key_pages, value_pages, tables, slots, positions, tables.stride(0)),
            *(keys.stride(1), values.stride(1), keys.stride(0), values.stride(0)),
            *(key_size, values.shape[2], _block(key_size), _block(values.shape[2]), PAGE_TOKENS),
        )

    def attend(
        self,
        tokens: torch.Tensor,
        pages: tuple[torch.Tensor, torch.Tensor],
        asked: Queries,
        out: torch.Tensor,
    ) -> None:
        """See `Kernels`."""
        tokens = _dense(tokens)
        (key_pages, value_pages), (_, num_heads, key_size) = pages, tokens.shape
        num_kv, value_size = key_pages.shape[1], value_pages.shape[3]
        group = num_heads // num_kv
        tile_rows, tile_bytes = (ONE_ROWS, ONE_BYTES) if asked.most == 1 else (MANY_ROWS, MANY_BYTES)
        if tokens.element_size() > 2:
            tile_rows, tile_bytes = min(tile_rows, WIDE_ROWS), min(tile_bytes, WIDE_BYTES)
        tile_rows = max(tile_rows, _power_of_2(group))
        num_tiles = -(-asked.most // (tile_rows // group))
        num_programs = len(asked.slots) * num_tiles * num_kv
        num_splits = self._splits(num_programs) if asked.most == 1 else 1
        shape = (num_splits, len(tokens), num_heads)
        parts = out if num_splits == 1 else out.new_empty(*shape, value_size, dtype=torch.float32)
        weights = out if num_splits == 1 else out.new_empty(shape, dtype=torch.float32)
        key_block, value_block = _block(key_size), _block(value_size)
        _attend[len(asked.slots) * num_tiles, num_kv, num_splits](
            *(tokens, key_pages, value_pages, parts, weights, asked.tables, asked.slots),
            *(asked.firsts, asked.counts, asked.starts, tokens if asked.sinks is None else asked.sinks),
            *(
                asked.scale,
                asked.softcap or 0.0,
                asked.window,
                num_tiles,
                len(tokens),
                asked.tables.stride(0),
            ),
            *(
                tokens.stride(0),
                tokens.stride(1),
                group,
                key_size,
                value_size,
                key_block,
                value_block,
                tile_rows,
            ),
            *(
                _tile_keys(max(key_block, value_block) * tokens.element_size(), tile_bytes),
                PAGE_TOKENS,
                num_splits > 1,
            ),
            *(asked.sinks is not None, asked.softcap is not None, "ieee", self._widens),
        )
        if num_splits > 1:
            _join[len(tokens), num_heads](
                *(parts, weights, out, len(tokens), num_splits, value_size, value_block, MAX_SPLITS)
            )

    def _splits(self, num_programs: int) -> int:
        """By the shape of the step alone, not by how long rows are: a captured step is right for every length."""
        return max(1, min(MAX_SPLITS, self._num_wanted // num_programs))


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    """The elements of one head side by side, as the kernels read them."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _block(size: int) -> int:
    return max(16, _power_of_2(size))


def _tile_keys(row_bytes: int, tile_bytes: int) -> int:
    return min(128, max(16, _power_of_2(tile_bytes // row_bytes)))


def _power_of_2(number: int) -> int:
    """The least that is not smaller."""
    return 1 << (number - 1).bit_length()
