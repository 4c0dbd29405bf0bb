"""How attention turns products of queries and keys into weights: torch's own way where that is the fastest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention

from inference.engine.attend.layout import CPU

MATMUL_ROWS = 8
"""From so many rows of one query each, two products are faster than torch's own attention. Microseconds of 4 heads of
64 with 4 queries each, cold, on two threads: 294 and 257 for 8 rows of 150 positions, 398 and 278 for 16 of 60, 584
and 513 for 16 of 150; the same from 400 on."""

NOTHING = torch.zeros(())


@dataclass(frozen=True, slots=True)
class Scores:
    """How one layer turns products of queries and keys into weights."""

    scale: float
    softcap: float | None
    sinks: torch.Tensor | None

    @property
    def adds_masks(self) -> bool:
        """Whether a mask may also be what is added to the scores."""
        return self.softcap is None and self.sinks is None

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """[rows, heads, queries, size] against [rows, heads, positions, size]; `mask` true: may look."""
        if self.adds_masks and not self._gains(query):
            return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=self.scale)
        if self.adds_masks:
            return self._by_products(query, key, value, mask)
        scores = torch.matmul(query, key.transpose(2, 3)).mul_(self.scale)
        if self.softcap is not None:
            scores = torch.tanh(scores / self.softcap) * self.softcap
        if mask is not None:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        return torch.matmul(self._weights(scores).to(value.dtype), value)

    def _by_products(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Scale and mask in the first of two products; `mask` is [rows, heads, 1, positions].

        The keys are on the left of it, as they lie, and what it gives is turned: few queries on the left are slower.
        Both products with what is between, in microseconds of 4 heads of 64 with 4 queries each, 16 rows, cold, on one
        thread and on two: 913 and 763, 442 and 364 at 150 positions, 2,133 and 1,668, 1,011 and 799 at 400; at 40 the
        same.
        """
        shape = query.shape
        queries, keys, values = query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1)
        added, share = (NOTHING, 0.0) if mask is None else (mask.flatten(0, 1).transpose(1, 2), 1.0)
        scores = torch.baddbmm(added, keys, queries.transpose(1, 2), beta=share, alpha=self.scale)
        weights = torch.softmax(scores.transpose(1, 2), dim=-1)
        return torch.bmm(weights, values).view(*shape[:3], -1)

    @staticmethod
    def _gains(query: torch.Tensor) -> bool:
        """Whether products of its own make attention faster; in narrower types they would round more."""
        is_plain = query.dtype is torch.float32 and query.device == CPU
        return len(query) >= MATMUL_ROWS and is_plain

    def _weights(self, scores: torch.Tensor) -> torch.Tensor:
        if self.sinks is None:
            return torch.softmax(scores, dim=-1, dtype=torch.float32)
        rows, heads, queries, _ = scores.shape
        per_head = self.sinks.numel() // heads  # packed queries: several heads' queries lie behind each other
        sinks = self.sinks.reshape(heads, per_head, 1).expand(heads, per_head, queries // per_head)
        column = sinks.reshape(1, heads, queries, 1).expand(rows, -1, -1, -1).to(scores.dtype)
        return torch.softmax(torch.cat([scores, column], dim=-1), dim=-1, dtype=torch.float32)[..., :-1]
