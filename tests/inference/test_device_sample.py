"""Tokens chosen on a device are those that the host would choose, for every setting and whoever else is there."""

import math
import random

import pytest
import torch

from inference.engine.choose.grammar import GrammarFault
from inference.engine.choose.sample import POISONED, Broken, Sampled, Sampler, choose_all
from inference.engine.gpu.sample import Choice
from inference.engine.orders.asked import Generate, Sampling
from tests.evidence import count
from tests.inference.late_device import LateDevice

VOCABULARY = 700


def some_sampling(draws):
    """Every setting on or off, alone and together."""

    def maybe(off, *values):
        return draws.choice([off, off, *values])

    return Sampling(
        temperature=maybe(0.0, 0.3, 1.0, 1.7),
        top_p=maybe(1.0, 0.05, 0.6, 0.95),
        top_k=maybe(0, 1, 7, 40, 10_000),
        min_p=maybe(0.0, 0.01, 0.2, 1.0),
        seed=draws.randrange(2**32),
        presence_penalty=maybe(0.0, 0.7, -1.0),
        frequency_penalty=maybe(0.0, 0.4, -0.3),
        repetition_penalty=maybe(1.0, 1.3, 0.8),
        logit_bias=maybe((), ((3, 5.0), (699, -100.0)), ((0, 100.0),)),
        logprobs=maybe(None, 0, 1, 20),
    )


def sampler(draws):
    prompt = tuple(draws.randrange(VOCABULARY) for _ in range(5))
    order = Generate("a", prompt, 50, some_sampling(draws), min_tokens=draws.choice([0, 0, 4]))
    return lambda: Sampler.of(order, (1, 2))


def close(one, other):
    """The same but for the last bits of log-probabilities, which are summed in another order."""
    if isinstance(one, Broken) or isinstance(other, Broken):
        return one == other
    near = [t for t, _ in one.top] == [t for t, _ in other.top] and (one.logprob is None) == (
        other.logprob is None
    )
    numbers = [*zip((v for _, v in one.top), (v for _, v in other.top), strict=True)]
    numbers += [(one.logprob, other.logprob)] if one.logprob is not None else []
    return one.token == other.token and near and all(math.isclose(a, b, abs_tol=1e-4) for a, b in numbers)


@pytest.mark.parametrize("seed", range(count(25, 1000)))
def test_a_crowd_is_what_the_host_would_choose(seed):
    """Five steps of rows of every kind: penalties grow with what was chosen, generators go on."""
    draws = random.Random(seed)
    makers = [sampler(draws) for _ in range(draws.randrange(1, 7))]
    ours, theirs = [make() for make in makers], [make() for make in makers]
    noise = torch.Generator().manual_seed(seed)
    for step in range(5):
        logits = torch.randn(len(makers), VOCABULARY, generator=noise) * 3
        if step == 4:
            logits[draws.randrange(len(makers))] = draws.choice([math.nan, -math.inf])
        before = logits.clone()
        found = Choice(logits, ours, LateDevice()).wait()
        assert torch.equal(logits.nan_to_num(9.0), before.nan_to_num(9.0)), (
            "the model's logits are not changed"
        )
        expected = choose_all(logits, theirs)
        assert all(map(close, found, expected)), (found, expected)
        assert [one.seen for one in ours] == [other.seen for other in theirs]


class Rule:
    """A grammar that lets these come, until it breaks."""

    def __init__(self, *allowed, breaks=False):
        self.allowed, self.breaks, self.taken = allowed, breaks, []

    def only_allowed(self, logits):
        if self.breaks:
            raise GrammarFault("too complex")
        mask = torch.ones(len(logits), dtype=torch.bool)
        mask[list(self.allowed)] = False
        return logits.masked_fill(mask, -torch.inf)

    def take(self, token):
        self.taken.append(token)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_grammar_is_its_own_rows(temperature):
    order = Generate("a", (1,), 9, Sampling(temperature=temperature, seed=1))
    rules = [Rule(5, 9), None, Rule(breaks=True), Rule(7)]
    crowd = [Sampler.of(order, (), rule) for rule in rules]
    logits = torch.zeros(4, VOCABULARY)
    logits[:, 100] = 50.0
    first, free, broken, last = Choice(logits, crowd, LateDevice()).wait()
    assert first.token in {5, 9}
    assert rules[0].taken == [first.token]
    assert (free, last) == (Sampled(100), Sampled(7))
    assert (broken.code, crowd[2].seen.total()) == ("bad_grammar", 0)


def test_a_row_without_numbers_has_no_token_and_counts_none():
    crowd = [Sampler.of(Generate("a", (1,), 9, Sampling(temperature=0.0)), ()) for _ in range(2)]
    logits = torch.full((2, 9), torch.nan)
    logits[1] = torch.arange(9.0)
    assert Choice(logits, crowd, LateDevice()).wait() == [POISONED, Sampled(8)]
    assert [one.seen.total() for one in crowd] == [0, 1]
