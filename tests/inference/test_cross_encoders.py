"""Cross-encoders: transformers' own tokens and logits for each pair, whatever else is in its pass."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from inference.api.text.tokens import Vocabulary
from inference.engine.attach.weights import attach
from inference.engine.classes import class_of
from inference.engine.embed import Batcher, Scorer
from inference.engine.orders.asked import Bounds, Embed, OrderRefused
from inference.engine.orders.reading import parse_order
from tests.inference.tiny import SIZES, landed_model
from tests.inference.tokenizers_made import FAMILIES as TOKENIZERS
from tests.inference.tokenizers_made import wordpiece

FAMILIES = ["bert", "deberta-v2", "distilbert", "electra", "modernbert", "roberta", "xlm-roberta"]
TOLD_APART = {"bert", "electra"}
"""Their models read segments."""
ENDS = {"modernbert": {"cls_token_id": 1, "sep_token_id": 2}}
PAIRS = [
    ((1, 5, 6, 2), (7, 8, 9, 2)),
    ((1, 9, 2), (4, 2)),
    ((1, 3, 3, 3, 3, 3, 2), (11, 40, 41, 42, 43, 44, 2)),
]
ROWS = [first + second for first, second in PAIRS]
SEGMENTS = [(0,) * len(first) + (1,) * len(second) for first, second in PAIRS]


@functools.cache
def cross_encoder(family):
    """A random model with one label, weights far apart."""
    sizes = SIZES | ENDS.get(family, {}) | {"num_key_value_heads": 4}
    config = AutoConfig.for_model(family, **sizes, num_labels=1)
    torch.manual_seed(7)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn_like(parameter) * 0.25)
    return model


@functools.cache
def scorer(family):
    """Ours, its weights attached from a landing as an engine's are."""
    model = cross_encoder(family)
    revision, landing, _ = landed_model(model, kind="rerank", kv_bytes_per_token=0)
    made = class_of(model.config, "rerank")
    return Scorer(attach(revision, landing, made, model.config, dtype="auto", gated=False).model)


def alone(family, row, segments):
    told = {"token_type_ids": torch.tensor([segments])} if family in TOLD_APART else {}
    with torch.inference_mode():
        return float(cross_encoder(family)(input_ids=torch.tensor([row]), **told).logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_score_is_the_models_own_logit(family):
    wanted = torch.tensor([[alone(family, *pair)] for pair in zip(ROWS, SEGMENTS, strict=True)])
    one_by_one = [scorer(family).encode([row], [parts]) for row, parts in zip(ROWS, SEGMENTS, strict=True)]

    assert len({round(float(logit), 3) for logit in wanted}) == len(ROWS)
    torch.testing.assert_close(scorer(family).encode(ROWS, SEGMENTS), wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.cat(one_by_one), wanted, atol=1e-5, rtol=1e-5)


def test_segments_are_read_where_the_model_has_them():
    for family in ("bert", "roberta"):
        differs = not torch.allclose(scorer(family).encode(ROWS, SEGMENTS), scorer(family).encode(ROWS))
        assert differs is (family in TOLD_APART)


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.lists(st.integers(1, 96), min_size=1, max_size=40), st.integers(0, 40)), max_size=9)
)
def test_a_score_does_not_depend_on_what_else_is_in_the_pass(others):
    rows = [ROWS[0], *(tuple(row) for row, _ in others)]
    segments = [SEGMENTS[0], *(tuple(int(at >= cut) for at in range(len(row))) for row, cut in others)]
    wanted = alone("bert", ROWS[0], SEGMENTS[0])
    for place in (0, -1):
        order = 1 if place == 0 else -1
        found = scorer("bert").encode(rows[::order], segments[::order])[place]
        assert float(found) == pytest.approx(wanted, abs=2e-5)


def with_pairs(data, kind):
    """The tokenizer with BERT's or RoBERTa's own way to join two texts; None: just one after the other."""
    tokenizer = Tokenizer.from_str(data.decode())
    tokenizer.add_special_tokens(["[CLS]", "[SEP]"])
    cls, sep = (("[CLS]", tokenizer.token_to_id("[CLS]")), ("[SEP]", tokenizer.token_to_id("[SEP]")))
    templates = {
        "template": lambda: processors.TemplateProcessing(
            "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[cls, sep]
        ),
        "bert": lambda: processors.BertProcessing(sep, cls),
        "roberta": lambda: processors.RobertaProcessing(sep, cls),
        "swapped": lambda: processors.TemplateProcessing("$A", "$B $A", special_tokens=[]),
    }
    tokenizer.post_processor = templates[kind]() if kind in templates else None
    return tokenizer.to_str()


@functools.cache
def joiners(name, kind):
    """Ours, and transformers' own."""
    text = with_pairs(TOKENIZERS[name](), kind)
    own = Tokenizer.from_str(text)
    own.no_padding()
    return Vocabulary.from_bytes(text.encode()), PreTrainedTokenizerFast(
        tokenizer_object=own, pad_token="[SEP]"
    )


@pytest.mark.parametrize("kind", ["template", "bert", "roberta", "none"])
@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=12)
@given(
    query=st.text(st.characters(codec="utf-8"), min_size=1, max_size=20) | st.just("quick fox"),
    document=st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)
    | st.just("the lazy dog, Größe! [SEP] fox"),
    room=st.integers(0, 12),
)
def test_a_pair_is_tokenized_and_cut_as_transformers_does(name, kind, query, document, room):
    vocabulary, own = joiners(name, kind)
    pairing = vocabulary.pairing()
    first, second = vocabulary.encode_all([query, document], add_special=False)
    for kept, more in ((second, {}), (second[: max(1, room)], cutting(pairing, first, room))):
        wanted = own(query, document, return_token_type_ids=True, **more)
        assert pairing.joined(first, kept) == wanted["input_ids"]
        assert pairing.segments(len(first), len(kept)) == wanted["token_type_ids"]
        assert pairing.has_segments or not any(wanted["token_type_ids"])


def cutting(pairing, first, room):
    """What transformers is asked for the same cut."""
    return {"truncation": "only_second", "max_length": pairing.num_marks + len(first) + max(1, room)}


def test_a_tokenizer_that_shows_no_pair_has_none():
    assert Vocabulary.from_bytes(with_pairs(wordpiece(), "swapped").encode()).pairing() is None


@pytest.mark.parametrize(
    "segments", ["x", [], [[0, 1], [0]], [[0, 2], [0, 0, 0]], [[0], [0, 0, 0]], [[0, 1], [0, 0, "1"]]]
)
def test_segments_that_do_not_fit_their_rows_are_refused(segments):
    message = {"op": "embed", "id": "a", "batch": [[1, 2], [3, 4, 5]]}
    sound = parse_order(message | {"segments": [[0, 1], [0, 0, 1]]}, Bounds(50, 20))
    assert sound == Embed("a", ((1, 2), (3, 4, 5)), ((0, 1), (0, 0, 1)))
    with pytest.raises(OrderRefused) as refused:
        parse_order(message | {"segments": segments}, Bounds(50, 20))
    assert (refused.value.id, refused.value.code) == ("a", "bad_request")


def test_segments_stay_with_their_rows():
    batcher = Batcher()
    batcher.add(Embed("a", ((1, 2, 3), (4,)), ((0, 1, 1), (1,))))
    batcher.add(Embed("b", ((5, 6),)))
    assert [(place.tokens, place.segments) for place in batcher.plan()] == [
        ((4,), (1,)),
        ((1, 2, 3), (0, 1, 1)),
        ((5, 6), ()),
    ]
