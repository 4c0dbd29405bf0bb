"""What a push is told: facts that are right, and refusals that name the cause and the next step."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from inference.engine.classes import CLASSIFIER
from inference.inspect import inspect
from tests.inference.tiny import EXPERTS, OWN_SIZES, SIZES, config_values, made, stored_tensors
from weights_cache.model.revision import ModelFacts

NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.bool: "BOOL"}
FAMILIES = [
    "bloom",
    "gemma2",
    "gemma3_text",
    "gpt2",
    "gpt_neox",
    "llama",
    "mistral",
    "opt",
    "phi",
    "phi3",
    "qwen3",
]


def request_for(model, *, config=None, tensors=None, **more):
    tensors = stored_tensors(model) if tensors is None else tensors
    listed = [{"name": n, "dtype": NAMES[t.dtype], "shape": list(t.shape)} for n, t in tensors.items()]
    return json.loads(json.dumps({"config": config or model.config.to_dict(), "tensors": listed} | more))


def refused(request):
    answer = json.loads(json.dumps(inspect(request)))
    assert set(answer["refused"]) == {"code", "message", "next"}
    assert all(answer["refused"].values())
    return answer["refused"]


@pytest.mark.parametrize("family", FAMILIES)
def test_facts_of_a_generator(family):
    model = made(family)
    answer = inspect(request_for(model))
    assert answer["left_out"] == []
    facts = ModelFacts.from_value(json.loads(json.dumps(answer["facts"])))
    assert (facts.kind, facts.architecture) == ("generate", type(model).__name__)
    assert facts.num_params == model.num_parameters()
    assert facts.num_layers == model.config.num_hidden_layers
    assert (facts.dtype, facts.vocab_size, facts.eos_token_ids) == ("float32", 97, (2,))
    assert facts.weight_bytes == sum(tensor.nbytes for tensor in stored_tensors(model).values())
    assert facts.max_len == (2048 if family == "bloom" else 128)


@pytest.mark.parametrize("family", FAMILIES)
def test_kv_bytes_are_what_a_cache_holds(family):
    model = made(family)
    cache = model(input_ids=torch.tensor([[5, 6, 7, 8]]), use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert inspect(request_for(model))["facts"]["kv_bytes_per_token"] == held // 4


def test_kv_bytes_follow_the_dtype_and_experts_fall_back_to_the_sizes():
    half = inspect(request_for(made("llama", dtype=torch.bfloat16)))["facts"]
    assert (half["dtype"], half["kv_bytes_per_token"]) == ("bfloat16", 2 * 2 * 2 * 8 * 2)
    asked = inspect(request_for(made("llama", dtype=torch.bfloat16), dtype="float32"))["facts"]
    assert (asked["dtype"], asked["kv_bytes_per_token"]) == ("float32", 2 * 2 * 2 * 8 * 4)
    assert inspect(request_for(made("qwen3_moe")))["facts"]["kv_bytes_per_token"] == 2 * 2 * 2 * 8 * 4


def test_8_bits_are_refused_where_they_gain_nothing():
    assert inspect(request_for(made("llama"), quantize="int8")) == inspect(request_for(made("llama")))
    said = refused(request_for(made("gpt2"), quantize="int8"))
    assert said["code"] == "cannot_quantize"
    assert "0% of the weights" in said["message"]


def test_experts_stored_one_by_one_fit():
    model = made("qwen3_moe")
    tensors = {}
    for name, tensor in stored_tensors(model).items():
        stem = name.rpartition(".")[0]
        if name.endswith("gate_up_proj"):
            for number, expert in enumerate(tensor):
                tensors[f"{stem}.{number}.gate_proj.weight"], tensors[f"{stem}.{number}.up_proj.weight"] = (
                    expert.chunk(2)
                )
        elif name.endswith("experts.down_proj"):
            tensors |= {f"{stem}.{number}.down_proj.weight": expert for number, expert in enumerate(tensor)}
        else:
            tensors[name] = tensor
    assert len(tensors) > EXPERTS["num_experts"] * 6
    answer = inspect(request_for(model, tensors=tensors))
    assert answer["left_out"] == []
    assert answer["facts"]["num_params"] == model.num_parameters()


def test_ties_may_be_stored_on_either_side_or_on_both():
    model = made("llama")
    tensors = stored_tensors(model)
    other = {("lm_head.weight" if n == "model.embed_tokens.weight" else n): t for n, t in tensors.items()}
    both = tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]}
    for stored in (tensors, other, both):
        assert inspect(request_for(model, tensors=stored))["facts"]["num_params"] == model.num_parameters()


def test_missing_tensors_are_named():
    model = made("llama")
    tensors = {n: t for n, t in stored_tensors(model).items() if "layers.1.mlp" not in n}
    answer = refused(request_for(model, tensors=tensors))
    assert answer["code"] == "missing_tensors"
    assert "model.layers.1.mlp.down_proj.weight" in answer["message"]
    assert refused(request_for(model, tensors={}))["code"] == "missing_tensors"


def test_another_shape_is_named():
    model = made("llama")
    answer = refused(request_for(model, config=model.config.to_dict() | {"intermediate_size": 64}))
    assert answer["code"] == "tensor_shape"
    assert "(32, 48) instead of (32, 64)" in answer["message"]


def test_unexpected_tensors_are_left_out_and_told():
    model = made("gpt2")
    extra = {"transformer.h.0.attn.masked_bias": torch.zeros(1), "adapter.weight": torch.zeros(2, 2)}
    answer = inspect(request_for(model, tensors=stored_tensors(model) | extra))
    assert any("adapter.weight" in entry["path"] for entry in answer["left_out"])
    many = {f"adapter.{number}": torch.zeros(1) for number in range(200)}
    assert len(inspect(request_for(model, tensors=stored_tensors(model) | many))["left_out"]) == 51


def test_auto_map_and_kernels_are_not_followed_but_told():
    config = config_values("llama") | {
        "auto_map": {"AutoModelForCausalLM": "modeling_evil.Evil"},
        "attn_implementation": "evil/kernels",
        "_attn_implementation": "evil/kernels",
        "fusion_config": {"patch_embeddings": True},
    }
    answer = inspect(request_for(made("llama"), config=config))
    assert answer["facts"]["architecture"] == "LlamaForCausalLM"
    assert "auto_map" in answer["left_out"][0]["path"]


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({}, "unknown_architecture"),
        ({"model_type": None}, "unknown_architecture"),
        ({"model_type": ["llama"]}, "unknown_architecture"),
        ({"model_type": "evil"}, "unknown_architecture"),
        ({"model_type": "vit"}, "unknown_architecture"),
        ({"model_type": "t5"}, "unknown_architecture"),
        ({"model_type": "llama", "quantization_config": {"quant_method": "gptq"}}, "quantized_weights"),
        ({"model_type": "llama", "hidden_size": "big"}, "bad_config"),
        ({"model_type": "llama", "num_hidden_layers": -1}, "missing_tensors"),
        ({"model_type": "llama", "num_hidden_layers": 10**9}, "missing_tensors"),
        ({"model_type": "llama", "hidden_size": 0}, "bad_config"),
        ({"model_type": "llama", "rope_parameters": {"rope_type": "evil"}}, "bad_config"),
    ],
)
def test_configs_that_are_refused(config, code):
    assert refused({"config": config, "tensors": []})["code"] in {code, "bad_config", "missing_tensors"}
    if code not in {"bad_config", "missing_tensors"}:
        assert refused({"config": config, "tensors": []})["code"] == code


@pytest.mark.parametrize(
    "request_value", [{}, {"config": [], "tensors": []}, {"config": {}, "tensors": [{}]}]
)
def test_a_request_of_another_shape_is_refused(request_value):
    assert refused(request_value)["code"] in {"bad_config", "unknown_architecture"}


def test_the_generation_config_knows_the_ends():
    model = made("llama")
    files = {
        "generation_config.json": {"eos_token_id": [7, 5]},
        "tokenizer_config.json": {"chat_template": "x"},
    }
    facts = inspect(request_for(model, files=files))["facts"]
    assert (facts["eos_token_ids"], facts["has_chat_template"]) == ([5, 7], True)
    facts = inspect(request_for(model, paths=["chat_template.jinja"]))["facts"]
    assert facts["has_chat_template"]


def test_every_size_of_the_table_is_a_model():
    for family in OWN_SIZES:
        assert config_values(family)["model_type"] == family


class TestEncoders:
    MODULES = (
        {"type": "sentence_transformers.models.Transformer", "path": ""},
        {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
    )

    def files(self, *modules, **pooling):
        return {
            "modules.json": [*self.MODULES, *modules],
            "1_Pooling/config.json": pooling,
            "sentence_bert_config.json": {"max_seq_length": 64},
        }

    def facts(self, files):
        return inspect(request_for(made("bert", num_key_value_heads=4), files=files))["facts"]

    def test_mean_and_normalise(self):
        facts = self.facts(self.files({"type": "x.Normalize"}, pooling_mode_mean_tokens=True))
        assert (facts["kind"], facts["pooling"], facts["normalize"]) == ("embed", "mean", True)
        assert (facts["max_seq_len"], facts["max_len"], facts["kv_bytes_per_token"]) == (64, 128, 0)

    def test_cls_in_either_way_of_saying_it(self):
        for pooling in (
            {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
            {"pooling_mode": "cls"},
        ):
            facts = self.facts(self.files(**pooling))
            assert (facts["pooling"], facts["normalize"]) == ("cls", False)

    def test_a_plain_encoder_is_pooled_by_mean(self):
        facts = self.facts({})
        assert (facts["kind"], facts["pooling"], facts["normalize"]) == ("embed", "mean", True)

    @pytest.mark.parametrize(
        ("modules", "pooling"),
        [
            (({"type": "sentence_transformers.models.Dense"},), {"pooling_mode": "mean"}),
            ((), {"pooling_mode": "lasttoken"}),
            ((), {"pooling_mode_max_tokens": True}),
            ((), {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}),
            ((), {}),
            (("evil",), {"pooling_mode": "mean"}),
        ],
    )
    def test_other_poolings_are_refused(self, modules, pooling):
        request = request_for(made("bert", num_key_value_heads=4), files=self.files(*modules, **pooling))
        assert refused(request)["code"] == "unsupported_pooling"

    def test_a_missing_pooler_is_no_loss(self):
        model = made("bert", num_key_value_heads=4)
        tensors = {n: t for n, t in stored_tensors(model).items() if "pooler" not in n}
        assert inspect(request_for(model, tensors=tensors))["facts"]["kind"] == "embed"

    def test_a_pooled_decoder_is_refused(self):
        request = request_for(made("llama"), files=self.files(pooling_mode="mean"))
        assert refused(request)["code"] == "unknown_architecture"


class TestCrossEncoders:
    def request(self, family="bert", **changes):
        sizes = SIZES | {"num_key_value_heads": 4, "num_labels": 1} | changes
        model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(family, **sizes))
        config = model.config.to_dict() | {"architectures": [type(model).__name__]}
        return request_for(model, config=config)

    @pytest.mark.parametrize(
        ("family", "max_len"),
        [("bert", 128), ("roberta", 127), ("distilbert", 128), ("electra", 128), ("deberta-v2", 128)],
    )
    def test_one_label_reranks(self, family, max_len):
        answer = json.loads(json.dumps(inspect(self.request(family))))
        facts = ModelFacts.from_value(answer["facts"])
        assert (facts.kind, facts.pooling, facts.kv_bytes_per_token) == ("rerank", None, 0)
        assert (facts.architecture[-len(CLASSIFIER) :], facts.max_len) == (CLASSIFIER, max_len)
        assert answer["left_out"] == []

    @pytest.mark.parametrize("num_labels", [2, 3])
    def test_several_labels_are_refused(self, num_labels):
        said = refused(self.request(num_labels=num_labels))
        assert said["code"] == "several_labels"
        assert f"{num_labels} labels" in said["message"]
        assert "one label" in said["next"]

    def test_a_config_that_does_not_say_has_two(self):
        asked = self.request()
        for name in ("num_labels", "id2label", "label2id"):
            asked["config"].pop(name, None)
        assert refused(asked)["code"] == "several_labels"

    def test_a_decoder_is_refused(self):
        said = refused(self.request("llama"))
        assert said["code"] == "unknown_architecture"
        assert "sequence classification by llama" in said["message"]

    def test_a_head_that_is_missing_is_named(self):
        asked = self.request()
        asked["tensors"] = [one for one in asked["tensors"] if not one["name"].startswith("classifier")]
        said = refused(asked)
        assert (said["code"], "classifier.weight" in said["message"]) == ("missing_tensors", True)

    def test_a_pooled_folder_embeds_whatever_its_config_was_once(self):
        files = TestEncoders().files(pooling_mode="mean")
        assert inspect(self.request() | {"files": files})["facts"]["kind"] == "embed"


def test_nothing_of_the_push_is_imported(tmp_path, monkeypatch):
    (tmp_path / "modeling_evil.py").write_text("import pathlib; pathlib.Path('ran').touch()")
    monkeypatch.chdir(tmp_path)
    config = config_values("llama") | {"auto_map": {"AutoModelForCausalLM": "modeling_evil.Evil"}}
    inspect(request_for(made("llama"), config=config))
    assert not Path("ran").exists()
