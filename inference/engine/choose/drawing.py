"""Tokens drawn for many rows at once: each as it would be drawn alone, to the bit.

A dozen small tensor calls a row took a third of what a step of sixteen free streams costs beside the model's pass, and
with grammars twice that; for all rows together they cost what they cost for one. Only rows that draw from all of their
probabilities come here: cuts and penalties are made row by row (`inference.engine.choose.sample`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from inference.engine.choose.grammar import only_allowed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference.engine.choose.sample import Sampler

TOGETHER = 32
"""Rows whose sums are there at the same time: of 150,000 words they take 40 MB."""


def draw_together(
    logits: torch.Tensor, samplers: Sequence[Sampler], sane: Sequence[bool]
) -> dict[int, int | Exception]:
    """By row of [rows, vocabulary] float32 logits: the token of each that is drawn so, or why it has none.

    No sampler takes its token here; a draw of its randomness is used.
    """
    rows = [row for row, ok in enumerate(sane) if ok and samplers[row].draws_freely]
    found: dict[int, int | Exception] = {}
    for at in range(0, len(rows), TOGETHER):
        some = rows[at : at + TOGETHER]
        ruled, faults = _ruled(logits[some], [samplers[row] for row in some])
        tokens = _drawn(ruled, [samplers[row] for row in some])
        found |= dict(zip(some, tokens, strict=True)) | {some[at]: fault for at, fault in faults.items()}
    return found


def _ruled(logits: torch.Tensor, samplers: Sequence[Sampler]) -> tuple[torch.Tensor, dict[int, Exception]]:
    """Without what grammars do not allow, and whose grammar failed; the logits may be changed."""
    followers = {row: one.grammar for row, one in enumerate(samplers) if one.grammar is not None}
    if not followers:
        return logits, {}
    if len(followers) == len(samplers):
        return only_allowed(logits, [*followers.values()])
    rows = [*followers]
    logits[rows], faults = only_allowed(logits[rows], [*followers.values()])
    return logits, {rows[at]: fault for at, fault in faults.items()}


def _drawn(logits: torch.Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """One draw of each row, in the order of the vocabulary; anything for a row without a number."""
    temperatures = torch.tensor([one.sampling.temperature for one in samplers])
    sums = torch.softmax(logits / temperatures[:, None], dim=-1).cumsum(1, dtype=torch.float64)
    total = sums[:, -1]
    drawn = torch.tensor([one.draws.random() for one in samplers], dtype=torch.float64) * total
    drawn = drawn.minimum(total.nextafter(torch.zeros_like(total)))  # within the last that has a share
    found = torch.searchsorted(sums, drawn[:, None], right=True)[:, 0]
    tokens: list[int] = found.clamp_(max=logits.shape[1] - 1).tolist()
    return tokens
