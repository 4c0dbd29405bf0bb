"""From a pushed `config.json` to transformers' own classes, and never to anything the push brought along.

A config is data: it may choose among the classes that transformers ships, by `model_type`, and set their
sizes. Fields that would make transformers fetch or run something (`auto_map`, kernels, fusions, attention
by name) are dropped.
"""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any, cast

from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_MAPPING,
    MODEL_MAPPING_NAMES,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedConfig, PreTrainedModel

EMBED_FAMILIES = frozenset({
    "bert", "camembert", "deberta", "deberta-v2", "distilbert", "electra", "ernie", "mpnet", "nomic_bert",
    "modernbert", "roberta", "xlm-roberta",
})  # fmt: skip
"""Bidirectional text encoders: last hidden states are pooled into a sentence vector, or a head scores a pair."""
CLASSIFIER = "ForSequenceClassification"
"""How the names of classes end whose head scores; with one label they are the cross-encoders that rerank."""
DROPPED_FIELDS = frozenset({
    "attn_implementation", "auto_map", "experts_implementation", "fusion_config", "kernel_config",
    "name_or_path", "transformers_weights", "trust_remote_code", "use_kernels",
})  # fmt: skip
"""Fields of a config that name code, kernels or files."""


class ConfigRefused(Exception):
    """We do not serve such a model: `code`, a sentence, and what its owner can do."""

    def __init__(self, code: str, message: str, next_step: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.next_step = next_step


def dropped_fields(values: Mapping[str, Any]) -> list[str]:
    """The fields of a config that are not followed; its owner is told."""
    return sorted(name for name in values if name in DROPPED_FIELDS or name.startswith("_attn"))


def config_of(values: Mapping[str, Any]) -> PreTrainedConfig:
    """The config object for a parsed `config.json`.

    Raises:
        ConfigRefused: transformers has no such architecture, or the weights are quantised.
    """
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise ConfigRefused(
            "unknown_architecture",
            f"model_type {model_type!r:.80} is not one that transformers itself has",
            "push a model of an architecture in transformers; code in a push is never run",
        )
    if "quantization_config" in values:
        raise ConfigRefused(
            "quantized_weights", "the weights are quantised", "push the float32, bfloat16 or float16 weights"
        )
    kept = {
        name: value
        for name, value in values.items()
        if name not in DROPPED_FIELDS and not name.startswith("_")
    }
    config_class: Any = CONFIG_MAPPING[model_type]
    return cast("PreTrainedConfig", config_class.from_dict(kept))


def kind_of(config: PreTrainedConfig, *, has_pooling: bool) -> str:
    """What transformers can do with such a config: "generate", "embed" or "rerank".

    Raises:
        ConfigRefused: none of them.
    """
    if not has_pooling and _has_classifier(config):
        _check_cross_encoder(config)
        return "rerank"
    if config.model_type in EMBED_FAMILIES and config.model_type in MODEL_MAPPING_NAMES:
        return "embed"
    if has_pooling:
        raise ConfigRefused(
            "unknown_architecture",
            f"sentence embeddings of {config.model_type} models are not served",
            f"push an encoder: {', '.join(sorted(EMBED_FAMILIES))}",
        )
    if config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not config.is_encoder_decoder:
        return "generate"
    raise ConfigRefused(
        "unknown_architecture",
        f"transformers has no text generation for model_type {config.model_type}",
        "push a causal language model, a sentence encoder or a cross-encoder",
    )


def _has_classifier(config: PreTrainedConfig) -> bool:
    named = config.architectures
    return isinstance(named, list) and any(str(name).endswith(CLASSIFIER) for name in named)


def _check_cross_encoder(config: PreTrainedConfig) -> None:
    """Raises ConfigRefused for a classifier that is no encoder, or that tells several labels apart."""
    if (
        config.model_type not in EMBED_FAMILIES
        or config.model_type not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
    ):
        raise ConfigRefused(
            "unknown_architecture",
            f"sequence classification by {config.model_type} models is not served",
            f"push a cross-encoder of {', '.join(sorted(EMBED_FAMILIES))}",
        )
    if config.num_labels != 1:
        raise ConfigRefused(
            "several_labels",
            f"config.json says {config.num_labels} labels, and what is served of sequence classification is "
            "reranking by one score",
            "push a cross-encoder with one label (`id2label` has one entry); for embeddings, the encoder without "
            "its head, with the `architectures` that it then has",
        )


def class_of(config: PreTrainedConfig, kind: str) -> type[PreTrainedModel]:
    """The class that serves a config of this kind."""
    mappings: dict[str, Any] = {
        "embed": MODEL_MAPPING,
        "generate": MODEL_FOR_CAUSAL_LM_MAPPING,
        "rerank": MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    }
    found: type[PreTrainedModel] = mappings[kind][type(config)]
    return found


def init_arguments(model_class: type[PreTrainedModel]) -> dict[str, Any]:
    """What the class is made with: encoders without the pooler that we do not use, and many folders lack."""
    if "add_pooling_layer" in signature(model_class.__init__).parameters:
        return {"add_pooling_layer": False}
    return {}
