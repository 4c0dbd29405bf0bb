"""How many tokens are guessed, and that nothing which is said depends on a guess."""

import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.engine.choose.sample import POISONED, Sampled, Sampler, choose_all
from inference.engine.choose.verify import chosen
from inference.engine.model import LoneModel, SlotModel, drafter_of, step_model
from inference.engine.orders.asked import Generate, Sampling
from inference.engine.steps.drafts import LEAST_GAIN, LEAST_ODDS, MOST_DRAFTS, MOST_TOKENS, ROUND, Drafter
from inference.engine.steps.events import Segment
from inference.engine.steps.odds import Guesser, Odds
from inference.engine.steps.pace import Pace
from inference.engine.steps.rows import Row, State
from inference.engine.steps.scheduler import Scheduler
from inference.engine.steps.slots import SlotPlan
from tests.evidence import IS_WHOLE, count
from tests.inference.test_engine_exact import DIFFERENT, agreed_of, hear, orders_of, prompts
from tests.inference.tiny import VOCABULARY, made

AGAIN = (11, 12, 13, 14, 15) * 4
"""A text that says itself what comes next: 11, 12, .."""


class Known(Pace):
    """Steps take `fixed` and `each` more for a token."""

    def __init__(self, fixed=1.0, each=0.0):
        super().__init__()
        self.fixed, self.each = fixed, each

    def rows_s(self, num_rows):
        return self.fixed + self.each * num_rows


def row_of(tokens=AGAIN, num_new=100, serial=0, **fields):
    row = Row(Generate(str(serial), (1, *tokens[:-1]), num_new, **fields), 0.0, serial)
    row.tokens.append(tokens[-1])
    row.admit(serial, 0.0)
    row.state, row.num_computed = State.DECODE, len(row.tokens) - 1
    return row


def drafts(drafter, rows, pace, *, stops=(), room=lambda *_: True):
    return drafter.drafts(rows, pace, lambda _: stops, room)


def sure():
    """A drafter whose guesses have been right."""
    drafter = Drafter()
    for _ in range(100):
        for length in (1, 2, 3):
            drafter._odds.note(length, is_right=True)
    return drafter


def test_where_more_tokens_cost_nothing_all_guesses_are_taken():
    row = row_of()
    assert drafts(sure(), [row], Known()) == {row: (11, 12, 13, 14, 15, 11, 12, 13)}


def test_where_they_cost_what_steps_cost_none_is():
    assert drafts(sure(), [row_of()], Known(0.0, 1.0)) == {}


def test_what_was_never_measured_is_not_guessed_at_but_in_the_step_that_tries():
    drafter, row = Drafter(), row_of()
    found = [drafts(drafter, [row], Pace()) for _ in range(ROUND)]
    assert sum(map(bool, found)) == 1


def test_one_step_of_a_round_has_none():
    drafter, row = sure(), row_of()
    assert [bool(drafts(drafter, [row], Known())) for _ in range(ROUND)].count(False) == 1


@pytest.mark.parametrize("each", [0.01, 0.05, 0.1, 0.3])
@pytest.mark.parametrize("num_right", [0, 1, 3, 8])
def test_the_number_is_the_one_with_the_most_tokens_a_second(each, num_right):
    drafter, row, pace = Drafter(), row_of(), Known(1.0, each)
    for _ in range(40):
        for number in range(8):
            drafter._odds.note(3, is_right=number < num_right)
    found = len(drafts(drafter, [row], pace).get(row, ()))
    odds = row.guesser.odds

    def rate(number):
        return sum(odds**place for place in range(number + 1)) / pace.rows_s(1 + number)

    assert rate(found) >= rate(0) * (LEAST_GAIN if found else 1)
    likely = [number for number in (0, 1, 2, 3, 4, 6, 8) if odds**number >= LEAST_ODDS]
    assert rate(found) >= max(map(rate, likely)) / (1 if found else LEAST_GAIN)


def test_rows_whose_guesses_come_true_have_the_drafts():
    lucky, unlucky, drafter = row_of(serial=0), row_of(serial=1), Drafter()
    for _ in range(20):
        drafts(drafter, [lucky, unlucky], Known(1.0, 0.1))
        for row, said in ((lucky, (lucky.guesser.tokens[0],)), (unlucky, (3,))):
            drafter.hear(row, 0, said)
    found = drafts(drafter, [lucky, unlucky], Known(1.0, 0.1))
    assert found[lucky]
    assert unlucky not in found


def test_a_full_step_has_none_and_a_fuller_one_no_more_than_fit():
    rows = [row_of(serial=number) for number in range(MOST_TOKENS)]
    assert drafts(sure(), rows, Known()) == {}
    found = drafts(sure(), rows[:10], Known())
    assert sum(map(len, found.values())) == MOST_TOKENS - 10


@pytest.mark.parametrize(
    ("row", "more", "expected"),
    [
        (row_of(num_new=4), {}, (11, 12)),
        (row_of(num_new=2), {}, ()),
        (row_of(), {"stops": {13}}, (11, 12)),
        (row_of(), {"stops": {11}}, ()),
        (row_of(), {"room": lambda *_: False}, ()),
        (row_of((4, 5, 6, 7)), {}, ()),
    ],
    ids=[
        "one is to come behind two",
        "the last one",
        "a stop",
        "a stop at once",
        "no room",
        "nothing was there before",
    ],
)
def test_nothing_is_guessed_behind_an_end(row, more, expected):
    assert drafts(sure(), [row], Known(), **more).get(row, ()) == expected


def test_what_the_caller_foretells_is_guessed_before_the_answer_has_said_it():
    row = row_of((4, 5, 6, 21), predicted=(20, 21, 22, 23, 24))
    drafter = sure()
    assert drafts(drafter, [row], Known())[row][:3] == (22, 23, 24)
    row.tokens += [22, 23]
    assert drafts(drafter, [row], Known())[row][:1] == (24,)


def test_a_guess_that_was_not_computed_is_scored_all_the_same():
    all_odds = Odds()
    guesser = Guesser(all_odds)
    guesser.look(AGAIN, 4)
    guesser.hear((11,))
    assert guesser.odds > 0.5
    guesser.look((*AGAIN, 11), 4)
    guesser.hear((12, 13, 3))
    assert all_odds._seen[3] == pytest.approx(1 + 0.99 + 0.99**2 + 0.99**3)
    assert all_odds._right[3] == pytest.approx(0.99 + 0.99**2 + 0.99**3)


SETTINGS = [
    {"temperature": 0.0, "seed": 1},
    {"temperature": 0.0, "seed": 2, "logprobs": 2},
    {"temperature": 0.0, "seed": 2, "repetition_penalty": 1.3, "frequency_penalty": 0.5},
    {"temperature": 1.5, "seed": 3},
    {"temperature": 0.8, "seed": 4, "top_k": 5, "top_p": 0.9},
    {"temperature": 0.8, "seed": 5, "presence_penalty": 1.0, "logprobs": 1},
]


@settings(max_examples=count(40, 3_000), deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(SETTINGS), st.integers(0, 5), st.integers(0, 4)), min_size=1, max_size=4
    ),
    st.integers(0, 2**16),
)
def test_tokens_are_chosen_as_one_by_one(rows, seed):
    """By drafts of which the first ones are right and the others not: their tokens, and randomness used as often."""
    logits = torch.randn(40, 30, generator=torch.Generator().manual_seed(seed)) * 4
    orders = {str(n): Generate(str(n), (1, 2), 40, Sampling(**each)) for n, (each, _, _) in enumerate(rows)}
    alone = {name: Sampler.of(order, ()) for name, order in orders.items()}
    expected, drafted, ids, places = {}, {}, [], []
    for number, (name, one) in enumerate(alone.items()):
        _, num_right, num_wrong = rows[number]
        own = [number * 10 + place for place in range(num_right + num_wrong + 1)]
        expected[name] = [choose_all(logits[[place]], [one])[0] for place in own[: num_right + 1]]
        right = [each.token for each in expected[name][:num_right]]
        wrong = [(expected[name][-1].token + 1) % 30] * num_wrong
        drafted[name] = (*right, *wrong)
        ids += [name] * len(own)
        places += own
    samplers = {name: Sampler.of(order, ()) for name, order in orders.items()}
    assert chosen(ids, logits[places], drafted, samplers, choose_all) == expected
    assert [one.draws.getstate() for one in samplers.values()] == [
        one.draws.getstate() for one in alone.values()
    ]


def test_a_row_that_breaks_behind_a_right_guess_is_broken():
    logits = torch.zeros(3, 9)
    logits[0, 4] = logits[2, 5] = 1.0
    logits[1] = torch.nan
    samplers = {name: Sampler.of(Generate(name, (1,), 9, Sampling(temperature=0.0)), ()) for name in "ab"}
    found = chosen(["a", "a", "b"], logits, {"a": (4,)}, samplers, choose_all)
    assert found == {"a": [Sampled(4), POISONED], "b": [Sampled(5)]}


class Free(Known):
    """Drafts cost nothing, so each step has all of them; and prompts come in pieces."""

    def prefill_tokens(self, *_):
        return 13


class Hopeful(Drafter):
    """Also takes guesses that are seldom right."""

    def _guess(self, row, stop_ids):
        found = super()._guess(row, stop_ids)
        for _ in found:
            row.guesser._odds.note(row.guesser._length, is_right=True)
        return found


def said(rows, orders, scheduler, late=3):
    """Every order's tokens, by its own sampler; one more arrives each `late` steps."""
    out, samplers, todo, steps = {}, {}, [*orders], 0
    while todo or not scheduler.is_idle:
        if todo and steps % late == 0:
            order = todo.pop(0)
            out[order.id], samplers[order.id] = [], Sampler.of(order, order.stop_ids)
            scheduler.add(order, 0.0)
        hear(scheduler.preempt(0.0), rows, out)
        step = scheduler.plan(0.0)
        ids, logits = rows.forward(step)
        found = chosen(ids, logits, {part.id: part.drafts for part in step}, samplers, rows.choose)
        last = {name: each[-1].token for name, each in found.items()}
        hear(
            scheduler.commit(step, last, 0.0, 0.01, {n: len(each) - 1 for n, each in found.items()}),
            rows,
            out,
        )
        scheduler.check()
        steps += 1
    return out


@pytest.mark.parametrize(
    "family", sorted(DIFFERENT if IS_WHOLE else {"gemma3_text", "gpt_oss", "llama", "gpt2"})
)
def test_with_drafts_an_answer_is_generate(family):
    """In a crowd, past sliding windows, behind kept pages; guesses right and wrong."""
    orders = [replace(order, max_tokens=40) for order in orders_of(prompts())]
    rows = SlotModel(made(family), SlotPlan(4, 128, 0, 40))
    scheduler = Scheduler(4, frozenset(), pace=Free(), num_pages=40, drafter=Hopeful())
    found = said(rows, orders, scheduler)
    figures = scheduler.draft_figures()
    assert 0 < figures["drafts_right"] < figures["drafts"]
    assert found == agreed_of(family, found, prompts(), 40)


def test_what_is_drawn_is_drawn_as_without_drafts():
    draws = random.Random(5)
    orders = [
        Generate(str(n), tuple(draws.randrange(3, VOCABULARY) for _ in range(20)), 30, Sampling(**each))
        for n, each in enumerate(SETTINGS)
    ]
    model = made("llama")
    plain = said(SlotModel(model, SlotPlan(4, 128, 0)), orders, Scheduler(4, frozenset(), pace=Free()))
    drafter = Hopeful()
    rows = SlotModel(made("llama"), SlotPlan(4, 128, 0))
    assert said(rows, orders, Scheduler(4, frozenset(), pace=Free(), drafter=drafter)) == plain
    assert drafter.num_drafted > 0


def test_only_models_whose_passes_take_them_have_drafts():
    room = SlotPlan(2, 64, 0)
    llama, half, lone = made("llama"), made("llama", dtype=torch.bfloat16), made("bloom")
    assert drafter_of(SlotModel(llama, room), llama, MOST_DRAFTS) is not None
    assert drafter_of(SlotModel(llama, room), llama, 0) is None
    assert drafter_of(SlotModel(half, room), half, MOST_DRAFTS) is None
    assert drafter_of(LoneModel(lone), lone, MOST_DRAFTS) is None
    assert drafter_of(step_model(llama, room, deterministic=True), llama, MOST_DRAFTS) is None


def test_a_layout_wants_the_logits_around_each_draft():
    from inference.engine.attend.layout import Chunk, StepLayout

    step = (
        Segment("b", 1, 9, (4, 5, 6), True, (), 2),
        Segment("a", 0, 3, (7,), True),
        Segment("c", 2, 0, (1, 2, 3), True),
        Segment("d", 3, 0, (1, 2), False),
    )
    layout = StepLayout(step)
    assert layout.sampled_ids == ["a", "b", "b", "b", "c"]
    assert layout.sampled.tolist() == [0, 1, 2, 3, 6]
    assert layout.sampling_chunks == [Chunk(1, 9, 3, 1), Chunk(2, 2, 1, 6)]
