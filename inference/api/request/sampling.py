"""How a request wants its tokens chosen: the fields, their bounds, and the model's own defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from inference.api.fields import Reader, array, bad, boolean, integer, mapping, number, string

MAX_TEMPERATURE = 2.0
"""OpenAI's own bound."""
LEAST_TEMPERATURE = 1e-4
"""Under it the likeliest token is certain (vLLM has 1e-5), and logits divided by it would pass what 32 bits hold."""
MAX_PENALTY = 2.0
"""OpenAI's own bound, either sign."""
MAX_TOP_K = 1_000_000
"""Above any vocabulary, so it only rules nonsense out."""
MAX_STOPS = 4
"""OpenAI's own bound."""
MAX_STOP_CHARS = 64
"""Held-back text is at most so long; real stop strings have under 20 characters."""
MAX_STOP_IDS = 64
"""As many as a model's own end tokens may be."""
MAX_BIASES = 300
"""OpenAI's own bound on `logit_bias`."""
MAX_BIAS = 100.0
"""OpenAI's own bound, either sign: -100 bans a token."""
MAX_TOKENS = 10_000_000
"""Above any context; the model's own length is checked where the prompt's is known."""
MAX_TOKEN_ID = 2**31 - 1
"""The engine keeps ids in 32 bits; the vocabulary's own bound is checked where it is known."""
MAX_SEED = 2**63 - 1
"""OpenAI's seeds are 64-bit signed."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """What a request says about choosing tokens; None where it says nothing and the model decides.

    Attributes:
        max_tokens: New tokens wanted at most; None means up to the route's default.
        stop: Strings that end the answer. `include_stop` keeps the one that did in the text.
        stop_ids: Token ids that end the answer, beside the model's own unless `ignore_eos`.
        logit_bias: (token id, bias) pairs.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    include_stop: bool = False
    ignore_eos: bool = False
    keep_special: bool = False
    logit_bias: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the model's `generation_config.json` says where a request is silent (as vLLM reads it)."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Defaults:
        """Read leniently: the file is the model's, and a value out of bounds means OpenAI's default.

        `do_sample: false`, said outright, means greedy.
        """
        if config.get("do_sample") is False:
            return cls(
                temperature=0.0, repetition_penalty=_within(config, "repetition_penalty", 0.01, 10.0, 1.0)
            )
        return cls(
            temperature=_within(config, "temperature", 0.0, MAX_TEMPERATURE, 1.0),
            top_p=_within(config, "top_p", 1e-6, 1.0, 1.0),
            top_k=int(_within(config, "top_k", 0, MAX_TOP_K, 0)),
            min_p=_within(config, "min_p", 0.0, 1.0, 0.0),
            repetition_penalty=_within(config, "repetition_penalty", 0.01, 10.0, 1.0),
        )


def _within(config: dict[str, Any], name: str, least: float, most: float, otherwise: float) -> float:
    value: Any = config.get(name)
    known = type(value) in {int, float} and least <= value <= most
    return float(value) if known else otherwise


def engine_fields(sampling: Sampling, defaults: Defaults) -> dict[str, Any]:
    """The sampling part of an engine's `add` message: every value decided, none left open.

    `top_p: 0` keeps the likeliest token only, which is `top_k: 1`; the engine then never divides by zero, nor by
    what is next to it: a temperature under LEAST_TEMPERATURE is greedy.
    """
    temperature = defaults.temperature if sampling.temperature is None else sampling.temperature
    top_p = defaults.top_p if sampling.top_p is None else sampling.top_p
    top_k = defaults.top_k if sampling.top_k is None else sampling.top_k
    repetition = sampling.repetition_penalty
    return {
        "temperature": temperature if temperature >= LEAST_TEMPERATURE else 0.0,
        "top_p": top_p or 1.0,
        "top_k": max(top_k, 0) if top_p else 1,
        "min_p": defaults.min_p if sampling.min_p is None else sampling.min_p,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "repetition_penalty": defaults.repetition_penalty if repetition is None else repetition,
        "logit_bias": {str(token): bias for token, bias in sampling.logit_bias},
        "min_tokens": sampling.min_tokens,
    }


def _stops(value: Any, param: str) -> tuple[str, ...]:
    one = string(MAX_STOP_CHARS, 1)
    return (one(value, param),) if type(value) is str else array(one, MAX_STOPS)(value, param)


def _biases(value: Any, param: str) -> tuple[tuple[int, float], ...]:
    found = mapping(value, param)
    if len(found) > MAX_BIASES:
        raise bad(param, f"{param!r} must have at most {MAX_BIASES} entries; it has {len(found)}.")
    read_bias, read_id = number(-MAX_BIAS, MAX_BIAS), integer(0, MAX_TOKEN_ID)
    biases: dict[int, float] = {}
    for key, bias in found.items():
        if not (key.isascii() and key.isdigit() and len(key) <= 10):
            raise bad(f"{param}.{key[:20]}", f"The keys of {param!r} must be token ids.")
        token = read_id(int(key), param)
        if token in biases:
            raise bad(f"{param}.{key}", f"{param!r} names the token {token} twice.")
        biases[token] = read_bias(bias, f"{param}.{key}")
    return tuple(biases.items())


def _skip_special(value: Any, param: str) -> bool:
    return not boolean(value, param)


SAMPLING_FIELDS: dict[str, tuple[str, Reader[Any]]] = {
    "temperature": ("temperature", number(0, MAX_TEMPERATURE)),
    "top_p": ("top_p", number(0, 1)),
    "top_k": ("top_k", integer(-1, MAX_TOP_K)),
    "min_p": ("min_p", number(0, 1)),
    "repetition_penalty": ("repetition_penalty", number(0.01, 10)),
    "presence_penalty": ("presence_penalty", number(-MAX_PENALTY, MAX_PENALTY)),
    "frequency_penalty": ("frequency_penalty", number(-MAX_PENALTY, MAX_PENALTY)),
    "seed": ("seed", integer(-MAX_SEED - 1, MAX_SEED)),
    "max_tokens": ("max_tokens", integer(1, MAX_TOKENS)),
    "min_tokens": ("min_tokens", integer(0, MAX_TOKENS)),
    "stop": ("stop", _stops),
    "stop_token_ids": ("stop_ids", array(integer(0, MAX_TOKEN_ID), MAX_STOP_IDS)),
    "include_stop_str_in_output": ("include_stop", boolean),
    "ignore_eos": ("ignore_eos", boolean),
    "skip_special_tokens": ("keep_special", _skip_special),
    "logit_bias": ("logit_bias", _biases),
}
"""Request field -> (attribute of Sampling, its reader); the last four of OpenAI's and vLLM's usual extras."""
