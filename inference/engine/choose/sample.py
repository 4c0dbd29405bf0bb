"""Logits to tokens, row by row: no row's settings, randomness or broken numbers reach another.

Order of the steps (as vLLM's and transformers' own): penalties, biases, bans, temperature, then the cuts
top_k, top_p and min_p on the probabilities, then one draw from the request's own generator. Of a request with a
grammar, all tokens that may not come next are out before the temperature.
Log-probabilities are those of the model's raw logits.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from inference.engine.choose.drawing import draw_together
from inference.engine.choose.grammar import GrammarFault

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from inference.engine.choose.grammar import Follower
    from inference.engine.orders.asked import Generate, Sampling

LEAST_LOGPROB = -9999.0
"""What OpenAI sends for a token that is out of the question; JSON has no minus infinity."""
HEAD_TOKENS = 512
"""`top_p` looks at this many likely tokens first; sorting a whole vocabulary of 150,000 takes 10 ms."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """One chosen token; `logprob` and `top` (id, logprob) only if the request asks for them."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Broken:
    """A row that has no next token, and why."""

    code: str
    message: str


POISONED = Broken("poisoned", "the model gave no finite numbers for this request")
ROW_FAULTS = (RuntimeError, ValueError, TypeError, IndexError, KeyError, ArithmeticError, AttributeError)
"""What a forward pass or a sampler can raise over one row's data."""


@dataclass(slots=True)
class Sampler:
    """One request's way of choosing, and what it has seen so far."""

    sampling: Sampling
    prompt: frozenset[int]
    banned_early: tuple[int, ...]
    """Ids that may not come before `min_tokens`."""
    min_tokens: int
    draws: random.Random
    grammar: Follower | None = None
    max_tokens: int | None = None
    seen: Counter[int] = field(default_factory=Counter)

    @classmethod
    def of(cls, order: Generate, stop_ids: Iterable[int], grammar: Follower | None = None) -> Sampler:
        """The sampler of one order; an order without a seed gets one of its own.

        Raises GrammarFault if the grammar does not go on by the tokens that the order resumes.
        """
        sampling = order.sampling
        prompt = frozenset(order.tokens) if sampling.repetition_penalty != 1.0 else frozenset()
        draws = random.Random(sampling.seed)  # noqa: S311 - a choice of words, not a secret
        banned_early = tuple(stop_ids) if order.min_tokens else ()
        sampler = cls(sampling, prompt, banned_early, order.min_tokens, draws, grammar, order.max_tokens)
        for token in order.resumed:  # as if it had chosen them
            sampler.take(token)
            if sampling.temperature:
                draws.random()
        return sampler

    @property
    def is_plain(self) -> bool:
        """True if the largest logit is the answer and nothing else is asked."""
        settings = self.sampling
        plain = settings.temperature == 0 and settings.logprobs is None and self.grammar is None
        return plain and not self.changes_logits

    @property
    def changes_logits(self) -> bool:
        """True if some logits are not taken as the model gives them."""
        settings = self.sampling
        return bool(
            settings.presence_penalty
            or settings.frequency_penalty
            or settings.repetition_penalty != 1.0
            or settings.logit_bias
            or self.is_early
        )

    @property
    def draws_freely(self) -> bool:
        """True if the next token is drawn from all probabilities that its grammar leaves, as the model gives them."""
        settings = self.sampling
        has_cuts = settings.top_k > 0 or settings.top_p < 1.0 or settings.min_p
        return settings.temperature > 0 and not has_cuts and not self.changes_logits

    @property
    def is_early(self) -> bool:
        """True while some ids may not come yet."""
        return bool(self.banned_early) and self.seen.total() < self.min_tokens

    @property
    def is_last(self) -> bool:
        """True if the next token is the last that there can be."""
        return self.max_tokens is not None and self.seen.total() + 1 >= self.max_tokens

    def choose(self, logits: torch.Tensor) -> Sampled:
        """The next token of [vocabulary] finite-maximum float32 logits, which are not changed."""
        changed = self._changed(logits) if self.changes_logits else logits
        token = self._best(changed) if self.sampling.temperature == 0 else self._draw(self._allowed(changed))
        return self.chosen(token, logits)

    def chosen(self, token: int, logits: torch.Tensor) -> Sampled:
        """Take this token, of these logits."""
        self.take(token)
        if self.sampling.logprobs is None:
            return Sampled(token)
        return _with_logprobs(token, logits, self.sampling.logprobs)

    def take(self, token: int) -> None:
        """Count a token that was chosen. Raises GrammarFault if the grammar cannot go on by it."""
        self.seen[token] += 1
        if self.grammar is not None:
            self.grammar.take(token)

    def _best(self, logits: torch.Tensor) -> int:
        """The largest that may come: most often the largest of all, and then no mask is made."""
        best = int(logits.argmax())
        if self.grammar is None or self.grammar.allows(best):
            return best
        return int(self.grammar.only_allowed(logits).argmax())

    def _allowed(self, logits: torch.Tensor) -> torch.Tensor:
        return logits if self.grammar is None else self.grammar.only_allowed(logits)

    def _changed(self, logits: torch.Tensor) -> torch.Tensor:
        changed = logits.clone()
        self._penalise(changed)
        if self.sampling.logit_bias:
            ids, biases = zip(*self.sampling.logit_bias, strict=True)
            changed.index_add_(0, torch.tensor(ids), torch.tensor(biases, dtype=changed.dtype))
        if self.is_early:
            changed[list(self.banned_early)] = -math.inf
        return changed

    def _penalise(self, logits: torch.Tensor) -> None:
        settings = self.sampling
        if settings.repetition_penalty != 1.0 and (known := self.prompt | self.seen.keys()):
            ids = torch.tensor(sorted(known))
            scores = logits[ids]
            penalty = settings.repetition_penalty
            logits[ids] = torch.where(scores < 0, scores * penalty, scores / penalty)
        if self.seen and (settings.presence_penalty or settings.frequency_penalty):
            ids = torch.tensor(list(self.seen.keys()))
            counts = torch.tensor(list(self.seen.values()), dtype=logits.dtype)
            logits[ids] -= settings.presence_penalty + settings.frequency_penalty * counts

    def _draw(self, logits: torch.Tensor) -> int:
        """One draw, in the order of the vocabulary."""
        settings = self.sampling
        probs = torch.softmax(logits / settings.temperature, dim=-1, dtype=torch.float32)
        if 0 < settings.top_k < len(probs):
            probs = _only(probs, *probs.topk(settings.top_k))
        if settings.top_p < 1.0:
            probs = _only(probs, *_nucleus(probs, settings.top_p))
        if settings.min_p:
            probs = probs.where(probs >= settings.min_p * probs.max(), 0.0)
        sums = probs.cumsum(0, dtype=torch.float64)
        drawn = self.draws.random() * float(sums[-1])
        return int(torch.searchsorted(sums, drawn, right=True).clamp(max=int(probs.nonzero()[-1])))


def _only(probs: torch.Tensor, values: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Those ids' values, and zero elsewhere."""
    return torch.zeros_like(probs).scatter_(0, ids, values)


def _nucleus(probs: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The fewest likeliest tokens that hold the share `top_p` of all probability; at least one."""
    wanted = top_p * float(probs.sum())
    head, ids = probs.topk(min(HEAD_TOKENS, len(probs)))
    if float(head.sum()) < wanted:
        head, ids = probs.sort(descending=True)
    before = head.cumsum(0) - head
    num_kept = max(1, int((before < wanted).sum()))
    return head[:num_kept], ids[:num_kept]


def choose_all(logits: torch.Tensor, samplers: Sequence[Sampler]) -> list[Sampled | Broken]:
    """The next token of each row of [rows, vocabulary] float32 logits; `Broken` where there is none.

    Nothing can be said about a row whose largest logit is NaN or infinite. No row is ever the reason that
    another one is not sampled, or is sampled twice.
    """
    best, ids = logits.max(dim=-1)
    sane, firsts = torch.isfinite(best).tolist(), ids.tolist()
    drawn = draw_together(logits, samplers, sane)
    return [
        _choose(sampler, row, drawn.get(number, first)) if ok else POISONED
        for number, (sampler, row, first, ok) in enumerate(zip(samplers, logits, firsts, sane, strict=True))
    ]


def _choose(sampler: Sampler, logits: torch.Tensor, found: int | Exception) -> Sampled | Broken:
    """`found`: what was drawn for it, or its largest logit."""
    try:
        if isinstance(found, Exception):
            raise found
        if sampler.is_plain or sampler.draws_freely:
            return sampler.chosen(found, logits)
        return sampler.choose(logits)
    except GrammarFault as fault:
        return Broken("bad_grammar", str(fault))
    except ROW_FAULTS as fault:
        return Broken("engine_error", f"{type(fault).__name__}: {fault}")


def _with_logprobs(token: int, logits: torch.Tensor, num_top: int) -> Sampled:
    logprobs = torch.log_softmax(logits, dim=-1)
    values, ids = logprobs.topk(min(num_top, len(logprobs)))
    top = tuple(zip(ids.tolist(), map(sendable, values.tolist()), strict=True))
    return Sampled(token, sendable(float(logprobs[token])), top)


def sendable(logprob: float) -> float:
    """As JSON can say it."""
    return max(logprob, LEAST_LOGPROB)
