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

from inference.engine.gpu.attend_kernel import attend, join
from inference.engine.gpu.norm_kernel import normalise
from inference.engine.steps.pages import PAGE_TOKENS

if TYPE_CHECKING:
    from inference.engine.gpu.paged import Queries

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


class TritonKernels:
    """`inference.engine.gpu.paged.Kernels` of one device with so many multiprocessors."""

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
        attend[len(asked.slots) * num_tiles, num_kv, num_splits](
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
            join[len(tokens), num_heads](
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
