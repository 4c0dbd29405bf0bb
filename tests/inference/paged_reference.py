"""What the GPU's kernels must give, in plain torch and in float32: one row, one head at a time."""

import torch

from inference.engine.gpu.norms import Gain
from inference.engine.steps.pages import PAGE_TOKENS


class ReferenceKernels:
    """`inference.engine.gpu.paged.Kernels` without hardware. It reads no position that a query may not see."""

    def write(self, keys, values, pages, tables, slots, positions):
        for token, (slot, position) in enumerate(zip(slots.tolist(), positions.tolist(), strict=True)):
            page = int(tables[slot, position // PAGE_TOKENS])
            for stored, new in zip(pages, (keys, values), strict=True):
                stored[page, :, position % PAGE_TOKENS] = new[:, token]

    def normalise(self, rows, weight, epsilon, gain):
        numbers = rows.float()
        numbers = numbers * torch.rsqrt((numbers * numbers).mean(-1, keepdim=True) + epsilon)
        if gain is Gain.ROUNDED:
            return numbers.to(rows.dtype) * weight
        return (numbers * (weight.float() + (gain is Gain.ONE_MORE))).to(rows.dtype)

    def attend(self, tokens, pages, asked, out):
        rows = zip(
            *(each.tolist() for each in (asked.slots, asked.firsts, asked.counts, asked.starts)), strict=True
        )
        for slot, first, count, start in rows:
            assert count <= asked.most
            if not count:
                continue
            keys, values = (seen(each, asked.tables[slot], start + count) for each in pages)
            for own in range(count):
                end = start + own + 1
                begin = max(0, end - asked.window)
                query = tokens[first + own].float()
                out[first + own] = attended(query, keys[:, begin:end], values[:, begin:end], asked)


def seen(pages, table, length):
    """[KV heads, length, size] of one row, in float32."""
    rows = [pages[int(table[at // PAGE_TOKENS]), :, at % PAGE_TOKENS] for at in range(length)]
    return torch.stack(rows, 1).float()


def attended(query, keys, values, asked):
    """One token's heads: [heads, size] against [KV heads, positions, size]."""
    group = len(query) // len(keys)
    keys, values = keys.repeat_interleave(group, 0), values.repeat_interleave(group, 0)
    scores = (keys @ query[:, :, None])[..., 0] * asked.scale
    if asked.softcap is not None:
        scores = torch.tanh(scores / asked.softcap) * asked.softcap
    if asked.sinks is not None:
        scores = torch.cat([scores, asked.sinks.float()[:, None]], 1)
    weights = scores.softmax(1)[:, : keys.shape[1]]
    return (weights[:, None] @ values)[:, 0]
