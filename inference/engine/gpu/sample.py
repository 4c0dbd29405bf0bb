"""Sampling where the logits are: all rows at once, and only the tokens come to the host.

The rules and their order are those of `engine.choose.sample`, and so are the random numbers: each request's own
generator on the host gives one for each token, so a seed means the same on every device. What a penalty or a bias
takes from a logit is worked out on the host, from the request's own tokens, to the same number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from inference.engine.choose.grammar import GrammarFault
from inference.engine.choose.sample import POISONED, ROW_FAULTS, Broken, Sampled, sendable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference.engine.choose.sample import Sampler
    from inference.engine.gpu.device import Device, Fetched

DRAWN_TOGETHER = 64
"""Rows whose probabilities are sorted and summed at once: 8 bytes for each token of the vocabulary, several times."""


class Choice:
    """Tokens under way from one step's logits, [rows, vocabulary] in float32; `wait` is for the host's copy of them."""

    def __init__(self, logits: torch.Tensor, samplers: Sequence[Sampler], device: Device) -> None:
        self._samplers = samplers
        self._faults: dict[int, Broken] = {}
        best, first = logits.max(dim=-1)
        changed = self._ruled(_changed(logits, samplers, device), samplers)
        drawn = [row for row, sampler in enumerate(samplers) if sampler.sampling.temperature > 0]
        self.tokens = first if changed is logits else changed.argmax(dim=-1)
        """On the device: [rows]."""
        for at in range(0, len(drawn), DRAWN_TOGETHER):
            rows = drawn[at : at + DRAWN_TOGETHER]
            where = device.put(torch.tensor(rows))
            self.tokens[where] = _drawn(changed[where], [samplers[row] for row in rows], device)
        self._told = device.fetch(torch.stack([self.tokens, torch.isfinite(best).long()]))
        self._logprobs = _Logprobs.of(logits, self.tokens, samplers, device)

    def wait(self) -> list[Sampled | Broken]:
        """The next token of each row; `Broken` where there is none. Each sampler counts its own."""
        tokens, sane = self._told.wait().tolist()
        return [
            self._taken(row, token) if ok else POISONED
            for row, (token, ok) in enumerate(zip(tokens, sane, strict=True))
        ]

    def _ruled(self, logits: torch.Tensor, samplers: Sequence[Sampler]) -> torch.Tensor:
        """Without what grammars do not allow; a row whose grammar fails is that row's fault."""
        ruled = logits
        for row, sampler in enumerate(samplers):
            if sampler.grammar is None:
                continue
            try:
                allowed = sampler.grammar.only_allowed(logits[row])
            except ROW_FAULTS as fault:
                self._faults[row] = _broken(fault)
                continue
            ruled = logits.clone() if ruled is logits else ruled
            ruled[row] = allowed
        return ruled

    def _taken(self, row: int, token: int) -> Sampled | Broken:
        if row in self._faults:
            return self._faults[row]
        try:
            self._samplers[row].take(token)
        except ROW_FAULTS as fault:
            return _broken(fault)
        return self._logprobs.sampled(row, token) if self._logprobs else Sampled(token)


def _broken(fault: Exception) -> Broken:
    if isinstance(fault, GrammarFault):
        return Broken("bad_grammar", str(fault))
    return Broken("engine_error", f"{type(fault).__name__}: {fault}")


@dataclass(frozen=True, slots=True)
class _Edits:
    """Single logits that are changed, as lists of row, id and number."""

    rows: list[int]
    ids: list[int]
    numbers: list[float]

    def add(self, row: int, ids: Sequence[int], numbers: Sequence[float]) -> None:
        self.rows.extend([row] * len(ids))
        self.ids.extend(ids)
        self.numbers.extend(numbers)

    def on(self, device: Device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rows, ids = device.put(torch.tensor([self.rows, self.ids]))
        return rows, ids, device.put(torch.tensor(self.numbers, dtype=torch.float32))


def _changed(logits: torch.Tensor, samplers: Sequence[Sampler], device: Device) -> torch.Tensor:
    """With penalties, biases and bans; the logits themselves where nobody has any."""
    if not any(sampler.changes_logits for sampler in samplers):
        return logits
    repeated, taken, biased, banned = (_Edits([], [], []) for _ in range(4))
    for row, sampler in enumerate(samplers):
        settings = sampler.sampling
        if settings.repetition_penalty != 1.0 and (known := sampler.prompt | sampler.seen.keys()):
            repeated.add(row, sorted(known), [settings.repetition_penalty] * len(known))
        if sampler.seen and (settings.presence_penalty or settings.frequency_penalty):
            counts = torch.tensor(list(sampler.seen.values()), dtype=torch.float32)
            costs = settings.presence_penalty + settings.frequency_penalty * counts
            taken.add(row, list(sampler.seen), costs.tolist())
        biased.add(row, *zip(*settings.logit_bias, strict=True)) if settings.logit_bias else None
        if sampler.is_early:
            banned.add(row, sampler.banned_early, [-math.inf] * len(sampler.banned_early))
    changed = logits.clone()
    if repeated.rows:
        rows, ids, penalties = repeated.on(device)
        scores = changed[rows, ids]
        changed[rows, ids] = torch.where(scores < 0, scores * penalties, scores / penalties)
    if taken.rows:
        rows, ids, costs_there = taken.on(device)
        changed[rows, ids] -= costs_there
    if biased.rows:
        rows, ids, biases = biased.on(device)
        changed.index_put_((rows, ids), biases, accumulate=True)
    if banned.rows:
        rows, ids, bans = banned.on(device)
        changed[rows, ids] = bans
    return changed


def _drawn(logits: torch.Tensor, samplers: Sequence[Sampler], device: Device) -> torch.Tensor:
    """One draw for each row, in the order of the vocabulary."""
    settings = [sampler.sampling for sampler in samplers]
    size = logits.shape[1]
    columns = device.put(
        torch.tensor(
            [
                [each.temperature for each in settings],
                [each.top_k if 0 < each.top_k < size else size for each in settings],
                [each.top_p for each in settings],
                [each.min_p for each in settings],
                [sampler.draws.random() for sampler in samplers],
            ],
            dtype=torch.float64,
        )
    )
    temperature, top_k, top_p, min_p, random = columns[:, :, None]
    probs = torch.softmax(logits / temperature.float(), dim=-1, dtype=torch.float32)
    if any(0 < each.top_k < size or each.top_p < 1.0 for each in settings):
        probs = _likeliest(probs, top_k, top_p)
    if any(each.min_p for each in settings):
        probs = probs.where(probs >= min_p.float() * probs.amax(-1, keepdim=True), 0.0)
    sums = probs.cumsum(-1, dtype=torch.float64)
    found = torch.searchsorted(sums, random * sums[:, -1:], right=True)[:, 0]
    places = torch.arange(size, device=logits.device)
    last = torch.where(probs > 0, places, 0).amax(-1)
    return found.minimum(last)


def _likeliest(probs: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Zero but for the `top_k` likeliest, and of those the fewest that hold the share `top_p` of them all."""
    ranked, ids = probs.sort(dim=-1, descending=True)
    rank = torch.arange(probs.shape[1], device=probs.device)
    ranked = ranked.where(rank < top_k, 0.0)
    before = ranked.cumsum(-1) - ranked
    is_in = (before < top_p.float() * ranked.sum(-1, keepdim=True)) | (rank == 0) | (top_p >= 1.0)
    return torch.zeros_like(probs).scatter_(-1, ids, ranked.where(is_in, 0.0))


class _Logprobs:
    """Of the rows that ask for them: the token's own and the largest, of the model's raw logits."""

    def __init__(self, rows: list[int], samplers: Sequence[Sampler], told: list[Fetched]) -> None:
        self._told = told
        self._place = {row: place for place, row in enumerate(rows)}
        self._num_top = [samplers[row].sampling.logprobs or 0 for row in rows]

    @classmethod
    def of(
        cls, logits: torch.Tensor, tokens: torch.Tensor, samplers: Sequence[Sampler], device: Device
    ) -> _Logprobs | None:
        """None if nobody asks."""
        rows = [row for row, sampler in enumerate(samplers) if sampler.sampling.logprobs is not None]
        if not rows:
            return None
        where = device.put(torch.tensor(rows))
        logprobs = torch.log_softmax(logits[where], dim=-1)
        own = logprobs.gather(1, tokens[where][:, None])
        most = max(sampler.sampling.logprobs or 0 for sampler in samplers)
        values, ids = logprobs.topk(min(most, logprobs.shape[1]))
        told = [device.fetch(torch.cat([own, values], dim=1)), device.fetch(ids)]
        return cls(rows, samplers, told)

    def sampled(self, row: int, token: int) -> Sampled:
        """The token with what its row asks for."""
        if row not in self._place:
            return Sampled(token)
        place = self._place[row]
        own, *values = self._told[0].wait()[place].tolist()
        ids = self._told[1].wait()[place].tolist()
        top = tuple(zip(ids, map(sendable, values), strict=True))[: self._num_top[place]]
        return Sampled(token, sendable(own), top)
