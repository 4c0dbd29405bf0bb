"""Sampling: each setting does what transformers' own processor does, and no row reaches another."""

import math
from collections import Counter

import pytest
import torch
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from inference.engine.choose.sample import LEAST_LOGPROB, POISONED, Sampled, Sampler, choose_all
from inference.engine.orders.asked import Generate, Sampling

VOCABULARY = 700


def sampler(*, tokens=(1, 2), min_tokens=0, stop_ids=(), **settings):
    return Sampler.of(Generate("r", tokens, 10, Sampling(**settings), min_tokens=min_tokens), stop_ids)


def logits_of(seed, spread=3.0):
    return torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(seed)) * spread


def support(one, logits, draws=400):
    return {one.choose(logits).token for _ in range(draws)}


def kept_by(*warpers, logits):
    scores = logits[None].clone()
    for warper in warpers:
        scores = warper(None, scores)
    return {int(i) for i in torch.isfinite(scores[0]).nonzero()}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("settings", "warpers"),
    [
        ({"top_k": 3}, [TopKLogitsWarper(3)]),
        ({"top_k": 1}, [TopKLogitsWarper(1)]),
        ({"top_p": 0.3}, [TopPLogitsWarper(0.3)]),
        ({"top_p": 0.0001}, [TopPLogitsWarper(0.0001)]),
        ({"min_p": 0.2}, [MinPLogitsWarper(0.2)]),
        (
            {"top_k": 8, "top_p": 0.5, "min_p": 0.1},
            [TopKLogitsWarper(8), TopPLogitsWarper(0.5), MinPLogitsWarper(0.1)],
        ),
    ],
)
def test_the_cuts_are_those_of_transformers(seed, settings, warpers):
    logits = logits_of(seed)
    seen = support(sampler(temperature=1.0, seed=seed, **settings), logits)
    allowed = kept_by(*warpers, logits=logits)
    assert seen <= allowed
    assert len(allowed) > 6 or seen == allowed


def test_top_p_zero_keeps_the_best_and_flat_logits_are_still_cut():
    assert support(sampler(top_p=0.0), logits_of(1)) == {int(logits_of(1).argmax())}
    assert len(support(sampler(top_p=0.01), torch.zeros(VOCABULARY), 2000)) == 7


def test_a_wide_nucleus_looks_past_the_head():
    logits = torch.zeros(VOCABULARY)
    assert len(support(sampler(top_p=0.99), logits, 8000)) > 600


def test_the_distribution_is_the_softmax():
    logits, one = torch.tensor([0.0, 1.0, 2.0]), sampler(temperature=0.5, seed=3)
    counts = Counter(one.choose(logits).token for _ in range(20_000))
    for token, share in enumerate(torch.softmax(logits / 0.5, -1).tolist()):
        assert counts[token] / 20_000 == pytest.approx(share, abs=0.012)


def test_a_seed_gives_the_same_tokens_whatever_the_crowd():
    rows = [logits_of(seed) for seed in range(30)]
    alone = [sampler(seed=5).choose(row).token for row in rows[:1]]
    one = sampler(seed=5)
    alone = [one.choose(row).token for row in rows]
    crowd = [sampler(seed=seed) for seed in (5, 6, 7)]
    together = [choose_all(torch.stack([row, rows[0], rows[1]]), crowd)[0].token for row in rows]
    assert together == alone
    other = sampler(seed=6)
    assert [other.choose(row).token for row in rows] != alone


@pytest.mark.parametrize("spread", [0.1, 3.0, 40.0])
def test_rows_drawn_together_are_those_drawn_alone(spread):
    """Whoever lies beside it, cut, biased, greedy or broken: the same tokens, and of each its own randomness."""
    settings = [
        *[{"temperature": 0.1 + 0.3 * number} for number in range(40)],
        *[{"top_p": 0.8}, {"temperature": 0.0}, {"logprobs": 2}, {"logit_bias": ((3, 9.0),)}],
    ]
    alone, crowd = ([sampler(seed=at, **each) for at, each in enumerate(settings)] for _ in range(2))
    for step in range(6):
        logits = torch.stack([logits_of(100 * step + at, spread) for at in range(len(settings))])
        logits[7, 5:] = -math.inf
        logits[9, 3] = math.nan
        found = choose_all(logits, crowd)
        assert found.pop(9) == POISONED
        expected = [
            one.choose(row) for at, (one, row) in enumerate(zip(alone, logits, strict=True)) if at != 9
        ]
        assert found == expected


def test_without_a_seed_two_requests_differ():
    rows = [logits_of(seed) for seed in range(20)]
    one, two = sampler(), sampler()
    assert [one.choose(row).token for row in rows] != [two.choose(row).token for row in rows]


def test_repetition_penalty_is_that_of_transformers():
    logits = logits_of(2)
    one = sampler(temperature=0.0, repetition_penalty=1.7, tokens=(int(logits.argmax()), 4))
    expected = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([[int(logits.argmax()), 4]]), logits[None])
    assert one.choose(logits).token == int(expected.argmax())


def test_presence_and_frequency_count_the_answer_only():
    logits = torch.tensor([5.0, 4.0, 3.0])
    one = sampler(temperature=0.0, presence_penalty=0.5, frequency_penalty=0.8, tokens=(0, 0, 0))
    assert [one.choose(logits).token for _ in range(5)] == [0, 1, 0, 2, 0]


def test_bias_moves_and_bans():
    logits = torch.tensor([5.0, 4.0, 3.0])
    assert sampler(temperature=0.0, logit_bias=((2, 100.0),)).choose(logits).token == 2
    assert sampler(temperature=0.0, logit_bias=((0, -100.0),)).choose(logits).token == 1
    assert torch.equal(logits, torch.tensor([5.0, 4.0, 3.0]))


@pytest.mark.parametrize("temperature", [0.0, 0.01], ids=["greedy", "drawn"])
@pytest.mark.parametrize(
    ("settings", "token"),
    [
        ({}, 0),
        ({"presence_penalty": 1.0}, 1),
        ({"presence_penalty": -1.0}, 0),
        ({"frequency_penalty": 1.0}, 1),
        ({"repetition_penalty": 2.0, "tokens": ()}, 1),
        ({"repetition_penalty": 2.0, "tokens": (0, 1)}, 0),
        ({"logit_bias": ((1, 1.0),)}, 1),
        ({"min_tokens": 2, "stop_ids": (0,)}, 1),
        ({"min_tokens": 1, "stop_ids": (0,)}, 0),
    ],
)
def test_each_setting_alone_counts_in_a_step(settings, token, temperature):
    """Beside one that asks for nothing, behind an answer of one token."""
    rows = [sampler(temperature=temperature, **settings), sampler(temperature=0.0)]
    for one in rows:
        one.take(0)
    found = choose_all(torch.tensor([[3.0, 2.5, 0.0]] * 2), rows)
    assert [one.token for one in found] == [token, 0]


def test_stop_ids_wait_for_min_tokens():
    logits = torch.tensor([5.0, 4.0, 3.0])
    one = sampler(temperature=0.0, min_tokens=2, stop_ids=(0,))
    assert [one.choose(logits).token for _ in range(3)] == [1, 1, 0]
    assert sampler(temperature=0.0, stop_ids=(0,)).choose(logits).token == 0


def test_logprobs_are_of_the_raw_logits():
    logits = torch.tensor([1.0, 3.0, -math.inf])
    found = sampler(temperature=0.0, logprobs=3, logit_bias=((0, 50.0),)).choose(logits)
    raw = torch.log_softmax(logits, -1).tolist()
    assert found.token == 0
    assert found.logprob == pytest.approx(raw[0])
    assert [token for token, _ in found.top] == [1, 0, 2]
    assert found.top[2][1] == LEAST_LOGPROB
    assert sampler(logprobs=0).choose(logits).top == ()


@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize(
    "settings", [{"temperature": 0.0}, {"temperature": 1.0, "top_p": 0.5, "logprobs": 2}]
)
def test_a_broken_row_fails_alone(broken, settings):
    logits = torch.stack([logits_of(seed) for seed in range(3)])
    expected = choose_all(logits, [sampler(seed=i, **settings) for i in range(3)])
    logits[1, 3] = broken
    found = choose_all(logits, [sampler(seed=i, **settings) for i in range(3)])
    assert found[1] == POISONED
    assert (found[0], found[2]) == (expected[0], expected[2])
    assert choose_all(torch.full((1, 4), -math.inf), [sampler()]) == [POISONED]


def test_a_plain_row_takes_the_largest():
    one = sampler(temperature=0.0)
    assert one.is_plain
    assert choose_all(torch.tensor([[1.0, 9.0, 2.0]]), [one]) == [Sampled(1)]
    assert one.seen == {1: 1}
