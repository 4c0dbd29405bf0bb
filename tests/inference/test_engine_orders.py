"""Whatever the link brings is an order within bounds or one clean refusal, never another error."""

import base64
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.engine.orders.asked import (
    Bounds,
    Cancel,
    Embed,
    Generate,
    OrderRefused,
    Sampling,
    Stop,
    Vocabulary,
)
from inference.engine.orders.reading import parse_order
from tests.evidence import count

BOUNDS = Bounds(vocab_size=100, max_len=16)
PLAIN = {"op": "add", "id": "a", "tokens": [1, 2, 3]}


def test_the_least_order_has_the_defaults():
    assert parse_order(PLAIN, BOUNDS) == Generate("a", (1, 2, 3), 13, Sampling())


def test_a_full_order():
    message = PLAIN | {
        "max_tokens": 4,
        "temperature": 0,
        "top_p": 0.5,
        "top_k": -1,
        "min_p": 0.1,
        "seed": -5,
        "stop_ids": [7],
        "presence_penalty": 1,
        "frequency_penalty": -1,
        "repetition_penalty": 1.5,
        "logit_bias": {"5": -100},
        "logprobs": 3,
        "min_tokens": 2,
        "ignore_eos": True,
        "tenant": "acme",
        "priority": 9,
    }
    sampling = Sampling(0.0, 0.5, 0, 0.1, -5, 1.0, -1.0, 1.5, ((5, -100.0),), 3)
    assert parse_order(message, BOUNDS) == Generate(
        "a", (1, 2, 3), 4, sampling, frozenset({7}), 2, ignore_eos=True, priority=9, tenant="acme"
    )


def test_the_other_orders():
    assert parse_order({"op": "cancel", "id": "a"}, BOUNDS) == Cancel("a")
    assert parse_order({"op": "stop"}, BOUNDS) == Stop()
    assert parse_order({"op": "embed", "id": "e", "batch": [[1], [2, 3]]}, BOUNDS) == Embed(
        "e", ((1,), (2, 3))
    )


def vocabulary(pieces, special):
    data = b"".join(len(each).to_bytes(2, "big") + each for each in pieces)
    return {"op": "vocabulary", "pieces": base64.b64encode(data).decode(), "special": special}


def test_a_vocabulary_has_its_pieces_and_no_special_ones_beside_them():
    found = parse_order(vocabulary([b"a", b"", b"\xe2\x82"], [0, 2, 3, -1, True, "1", None]), BOUNDS)
    assert found == Vocabulary((b"a", b"", b"\xe2\x82"), frozenset({0, 2}))


@pytest.mark.parametrize(
    "change",
    [
        {"pieces": "?"},
        {"pieces": None},
        {"pieces": base64.b64encode(b"\0\3ab").decode()},
        {"pieces": base64.b64encode(b"\0").decode()},
        {"pieces": vocabulary([b""] * 101, [])["pieces"]},
        {"special": None},
    ],
)
def test_a_vocabulary_that_is_cut_or_too_large_is_refused(change):
    with pytest.raises(OrderRefused):
        parse_order(vocabulary([b"a"], []) | change, BOUNDS)


def test_nulls_are_the_defaults():
    names = [
        *Sampling.__dataclass_fields__,
        "stop_ids",
        "min_tokens",
        "max_tokens",
        "ignore_eos",
        "tenant",
        "priority",
    ]
    assert parse_order(PLAIN | dict.fromkeys(names), BOUNDS) == parse_order(PLAIN, BOUNDS)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"id": None}, "bad_request"),
        ({"id": ""}, "bad_request"),
        ({"id": "x" * 257}, "bad_request"),
        ({"op": "dance"}, "bad_request"),
        ({"op": None}, "bad_request"),
        ({"tokens": []}, "bad_request"),
        ({"tokens": None}, "bad_request"),
        ({"tokens": [100]}, "bad_request"),
        ({"tokens": [-1]}, "bad_request"),
        ({"tokens": [True]}, "bad_request"),
        ({"tokens": [1.0]}, "bad_request"),
        ({"tokens": "abc"}, "bad_request"),
        ({"tokens": [1] * 16}, "context_length_exceeded"),
        ({"max_tokens": 0}, "bad_request"),
        ({"max_tokens": True}, "bad_request"),
        ({"temperature": -0.1}, "bad_request"),
        ({"temperature": math.nan}, "bad_request"),
        ({"temperature": math.inf}, "bad_request"),
        ({"temperature": "1"}, "bad_request"),
        ({"temperature": True}, "bad_request"),
        ({"top_p": 1.1}, "bad_request"),
        ({"min_p": -1}, "bad_request"),
        ({"top_k": 1.5}, "bad_request"),
        ({"seed": 1 << 65}, "bad_request"),
        ({"seed": 1.5}, "bad_request"),
        ({"seed": True}, "bad_request"),
        ({"repetition_penalty": 0}, "bad_request"),
        ({"presence_penalty": 101}, "bad_request"),
        ({"logit_bias": []}, "bad_request"),
        ({"logit_bias": {"x": 1}}, "bad_request"),
        ({"logit_bias": {"100": 1}}, "bad_request"),
        ({"logit_bias": {"٣": 1}}, "bad_request"),
        ({"logit_bias": {"5": None}}, "bad_request"),
        ({"logit_bias": {"5": math.nan}}, "bad_request"),
        ({"logit_bias": {str(i): 1 for i in range(1025)}}, "bad_request"),
        ({"logprobs": 21}, "bad_request"),
        ({"logprobs": True}, "bad_request"),
        ({"min_tokens": 99}, "bad_request"),
        ({"stop_ids": [1] * 257}, "bad_request"),
        ({"stop_ids": [100]}, "bad_request"),
        ({"ignore_eos": 1.5}, "bad_request"),
        ({"ignore_eos": 1}, "bad_request"),
        ({"has_waited": []}, "bad_request"),
        ({"weight": 0}, "bad_request"),
        ({"weight": 1001}, "bad_request"),
        ({"predicted": [100]}, "bad_request"),
        ({"predicted": [1] * 17}, "bad_request"),
        ({"resumed": []}, "bad_request"),
        ({"resumed": [100]}, "bad_request"),
        ({"resumed": [1] * 13}, "bad_request"),
        ({"priority": -1}, "bad_request"),
        ({"priority": 10}, "bad_request"),
        ({"priority": 0.0}, "bad_request"),
        ({"tenant": 1}, "bad_request"),
        ({"tenant": "x" * 257}, "bad_request"),
        ({"grammars": "x"}, "bad_request"),
        ({"grammar": 1}, "bad_request"),
        ({"op": "embed", "batch": []}, "bad_request"),
        ({"op": "embed", "batch": [[]]}, "bad_request"),
        ({"op": "embed", "batch": [[1] * 17]}, "context_length_exceeded"),
        ({"op": "embed", "batch": [[1]] * 2049}, "bad_request"),
        ({"op": "embed", "batch": [[1, 2]], "segments": []}, "bad_request"),
        ({"op": "embed", "batch": [[1, 2]], "segments": [[0]]}, "bad_request"),
        ({"op": "embed", "batch": [[1, 2]], "segments": [[0, 2]]}, "bad_request"),
        ({"op": "embed", "batch": [[1, 2]], "segments": [[0, 1], [0, 1]]}, "bad_request"),
        ({"op": "embed", "batch": [[1, 2]], "weight": 0}, "bad_request"),
    ],
)
def test_what_is_refused(change, code):
    message = PLAIN | change
    if change.get("op") == "embed":
        del message["tokens"]
    with pytest.raises(OrderRefused) as caught:
        parse_order(message, BOUNDS)
    assert caught.value.code == code
    assert len(caught.value.message) < 300


def test_an_answer_is_cut_to_the_room_there_is():
    assert parse_order(PLAIN | {"max_tokens": 10**6}, BOUNDS).max_tokens == 13
    assert parse_order(PLAIN | {"tokens": [1] * 15}, BOUNDS).max_tokens == 1


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
FIELDS = sorted(
    {"batch", "segments"}.union(*(each.__dataclass_fields__ for each in (Generate, Sampling))) - {"sampling"}
)


@settings(max_examples=count(80, 400), deadline=None)
@given(
    st.sampled_from(["add", "embed", "cancel", "stop", "x"]),
    st.dictionaries(st.sampled_from(FIELDS), VALUES),
)
def test_any_message_is_an_order_or_refused(operation, fields):
    message = PLAIN | fields | {"op": operation}
    try:
        order = parse_order(message, BOUNDS)
    except OrderRefused as refused:
        json.dumps(refused.message)
        return
    if isinstance(order, Generate):
        assert 0 < len(order.tokens) + order.max_tokens <= BOUNDS.max_len
        tokens = (*order.tokens, *order.stop_ids, *order.predicted, *order.resumed)
        assert all(0 <= token < BOUNDS.vocab_size for token in tokens)
        assert order.min_tokens <= order.max_tokens
        assert len(order.resumed) < order.max_tokens
        assert math.isfinite(order.sampling.temperature)
