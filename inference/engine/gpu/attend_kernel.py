"""Attention over a table of pages, in Triton: one program for a tile of queries of one KV head, and one split.

Imported only where there is a CUDA device. `inference.engine.gpu.kernels` starts it and says what it is for. The
softmax is made as the keys come by (its parts are joined by their largest score): Dao et al., "FlashAttention", 2022.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["window", "num_tiles", "num_tokens"])
def attend(
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
    kv_head, num_kv, split = tl.program_id(1), tl.num_programs(1), tl.program_id(2)
    tile_tokens: tl.constexpr = tile_rows // group
    count = tl.load(counts + row)
    if tile * tile_tokens >= count:
        return
    slot, start = tl.load(slots + row), tl.load(starts + row)

    at = tl.arange(0, tile_rows)
    own = tile * tile_tokens + at // group  # each query's token within the row
    head = kv_head * group + at % group
    is_query = (at < tile_tokens * group) & (own < count)
    token = tl.load(firsts + row) + own
    at_queries = queries + token[:, None] * query_stride + head[:, None] * query_head_stride
    query = _vectors(at_queries, is_query[:, None], key_size, key_block, widens)
    begin = start + tile * tile_tokens
    low, high = _span(begin, start + tl.minimum((tile + 1) * tile_tokens, count), window, split, tile_keys)

    largest, total = _first_weights(sinks, head, is_query, split, tile_rows, has_sinks)
    answer = tl.zeros([tile_rows, value_block], tl.float32)
    for near in range(low, high, tile_keys):
        position = near + tl.arange(0, tile_keys)
        is_there = position < high
        page = tl.load(tables + slot * table_stride + position // page_tokens, mask=is_there, other=0)
        stored = (page.to(tl.int64) * num_kv + kv_head) * page_tokens + position % page_tokens
        at_keys = key_pages + stored[None, :] * key_size
        key = _columns(at_keys, is_there[None, :], key_size, key_block, widens)
        score = tl.dot(query, key, input_precision=precision) * scale
        if has_softcap:
            score = _capped(score, softcap)
        score = _only_seen(score, position, is_there, start + own, window)
        larger, fade, share = _shares(score, largest)
        at_values = value_pages + stored[:, None] * value_size
        value = _vectors(at_values, is_there[:, None], value_size, value_block, False)
        answer = answer * fade[:, None] + _mixed(share, value, precision, widens)
        total = total * fade + tl.sum(share, 1)
        largest = larger

    is_empty = total == 0.0  # a split behind the row's end, or a window that begins after it
    total = tl.where(is_empty, 1.0, total)
    out = (split * num_tokens + token) * num_kv * group + head
    _keep(found, out, answer / total[:, None], is_query, value_size, value_block)
    if is_split:
        tl.store(weights + out, tl.where(is_empty, float("-inf"), tl.log(total) + largest), mask=is_query)


@triton.jit
def _vectors(
    begins: tl.tensor, is_there: tl.tensor, size: tl.constexpr, block: tl.constexpr, widens: tl.constexpr
) -> tl.tensor:
    """The `size` numbers from each of `begins`, [rows, 1], on, as [rows, block]; zeros where nothing is there."""
    at = tl.arange(0, block)[None, :]
    loaded = tl.load(begins + at, mask=is_there & (at < size), other=0.0)
    return loaded.to(tl.float32) if widens else loaded


@triton.jit
def _columns(
    begins: tl.tensor, is_there: tl.tensor, size: tl.constexpr, block: tl.constexpr, widens: tl.constexpr
) -> tl.tensor:
    """The same on their side: from each of `begins`, [1, columns], on, as [block, columns]."""
    at = tl.arange(0, block)[:, None]
    loaded = tl.load(begins + at, mask=is_there & (at < size), other=0.0)
    return loaded.to(tl.float32) if widens else loaded


@triton.jit
def _span(
    first: tl.tensor, end: tl.tensor, window: tl.tensor, split: tl.tensor, tile_keys: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """This split's part of the positions that queries from `first` to `end` look at: from the one to the other."""
    begin = tl.maximum(first + 1 - window, 0)
    part = tl.cdiv(tl.cdiv(end - begin, tl.num_programs(2)), tile_keys) * tile_keys
    low = begin + split * part
    return low, tl.minimum(low + part, end)


@triton.jit
def _first_weights(
    sinks: tl.tensor,
    head: tl.tensor,
    is_query: tl.tensor,
    split: tl.tensor,
    tile_rows: tl.constexpr,
    has_sinks: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """The largest score and the sum of weights before the first key; a sink is a weight with nothing behind it."""
    largest = tl.full([tile_rows], float("-inf"), tl.float32)
    total = tl.zeros([tile_rows], tl.float32)
    if has_sinks:
        sink = tl.load(sinks + head, mask=is_query, other=0.0).to(tl.float32)
        largest = tl.where(split == 0, sink, largest)
        total = tl.where(split == 0, 1.0, total)
    return largest, total


@triton.jit
def _capped(score: tl.tensor, softcap: tl.tensor) -> tl.tensor:
    """`softcap` x tanh(score / softcap); tanh has no overflow this way round."""
    grown = tl.exp(-2.0 * tl.abs(score / softcap))
    return tl.where(score < 0, -softcap, softcap) * ((1.0 - grown) / (1.0 + grown))


@triton.jit
def _only_seen(
    score: tl.tensor, position: tl.tensor, is_there: tl.tensor, place: tl.tensor, window: tl.tensor
) -> tl.tensor:
    """Minus infinity where a query at `place` does not look: behind itself, and before its window."""
    looks = is_there[None, :] & (position[None, :] <= place[:, None])
    looks = looks & (position[None, :] > place[:, None] - window)
    return tl.where(looks, score, float("-inf"))


@triton.jit
def _shares(score: tl.tensor, largest: tl.tensor) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """The largest score so far, what all before it is still worth, and the weights of these by it."""
    larger = tl.maximum(largest, tl.max(score, 1))
    level = tl.where(larger == float("-inf"), 0.0, larger)
    return larger, tl.exp(largest - level), tl.exp(score - level[:, None])


@triton.jit
def _mixed(share: tl.tensor, value: tl.tensor, precision: tl.constexpr, widens: tl.constexpr) -> tl.tensor:
    """Values by their weights, which are rounded as the values are."""
    rounded = share.to(value.dtype)
    if widens:
        rounded, value = rounded.to(tl.float32), value.to(tl.float32)
    return tl.dot(rounded, value, input_precision=precision)


@triton.jit
def _keep(
    found: tl.tensor,
    out: tl.tensor,
    answer: tl.tensor,
    is_query: tl.tensor,
    size: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Write each query's answer to its place `out` among vectors of `size` numbers."""
    at = tl.arange(0, block)[None, :]
    begins = found + out.to(tl.int64)[:, None] * size
    tl.store(begins + at, answer.to(found.dtype.element_ty), mask=is_query[:, None] & (at < size))


@triton.jit(do_not_specialize=["num_tokens", "num_splits"])
def join(
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
