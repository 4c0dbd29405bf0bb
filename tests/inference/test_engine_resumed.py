"""An engine that goes on behind another's tokens says what that one would have said, whatever the rules."""

import random

import pytest

from inference.api.grammar.structure import read_schema
from inference.engine.orders.asked import Bounds, OrderRefused
from inference.engine.orders.reading import parse_order
from tests.inference.test_engine_grammar import made
from tests.inference.test_engine_preempted_grammar import Served

GRAMMAR = read_schema(made(random.Random(8)), "x").grammar
ORDERS = {
    "greedy": {"temperature": 0, "max_tokens": 40, "ignore_eos": True},
    "drawn": {"temperature": 1.0, "seed": 7, "max_tokens": 40, "ignore_eos": True},
    "narrow": {
        "temperature": 0.7,
        "seed": 8,
        "top_p": 0.9,
        "top_k": 20,
        "max_tokens": 40,
        "ignore_eos": True,
    },
    "penalised": {
        "temperature": 0,
        "repetition_penalty": 1.3,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.4,
        "max_tokens": 40,
        "ignore_eos": True,
    },
    "late": {"temperature": 0, "min_tokens": 30, "max_tokens": 500},
    "grammar": {"temperature": 0, "grammar": GRAMMAR, "max_tokens": 500},
    "drawn grammar": {"temperature": 1.0, "seed": 3, "grammar": GRAMMAR, "max_tokens": 500},
}


def finished(engine, orders):
    for key, fields in orders.items():
        engine.ask({key: fields}, 0)
    engine.read(lambda: len(engine.ends) == len(engine.tokens))


def test_the_rest_of_an_answer_is_the_same_wherever_it_was_cut():
    engine = Served(4)
    # The harness makes a prompt from a key's length, so that equal lengths are equal prompts.
    finished(engine, ORDERS)
    whole, ends = dict(engine.tokens), dict(engine.ends)
    for key, fields in ORDERS.items():
        tokens = whole[key]
        for cut in sorted({1, len(tokens) // 2, len(tokens) - 1}):
            if not 0 < cut < len(tokens):
                continue
            again = f"{'#' * len(key)}"
            engine.tokens.clear()
            engine.ends.clear()
            finished(engine, {again: fields | {"resumed": tokens[:cut]}})

            assert engine.tokens[again] == tokens[cut:], (key, cut)
            assert engine.ends[again]["reason"] == ends[key]["reason"]
            assert engine.ends[again]["completion_tokens"] == ends[key]["completion_tokens"]
            assert engine.ends[again]["prompt_tokens"] == ends[key]["prompt_tokens"]
    engine.stop()


def test_tokens_that_the_grammar_does_not_allow_are_refused_and_nobody_else_is_hurt():
    engine = Served(2)
    wrong = engine.tokens
    finished(engine, {"wrong": ORDERS["grammar"] | {"resumed": [5, 5, 5, 5]}, "well": ORDERS["greedy"]})
    engine.stop()

    assert engine.ends["wrong"]["code"] == "bad_grammar"
    assert not wrong["wrong"]
    assert len(engine.tokens["well"]) == 40


@pytest.mark.parametrize("resumed", [[1, 2], [9999], "ab", [True]])
def test_an_order_resumes_less_than_it_asks_for_and_ids_there_are(resumed):
    order = {"op": "add", "id": "x", "tokens": [1], "max_tokens": 2, "resumed": resumed}
    with pytest.raises(OrderRefused):
        parse_order(order, Bounds(100, 50))
