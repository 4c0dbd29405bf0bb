"""Does a model fit its engine and the nodes? Pure: what it needs against what they have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from regions.map.region import ModelFault
from regions.push.spec import OWN_ENGINE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from weights_cache.model.revision import ModelFacts, Spec

MIN_CONTEXT_TOKENS = 512  # one short conversation; a model that cannot hold that much serves nobody
GIB = 1 << 30
MIB = 1 << 20


def needed_bytes(facts: ModelFacts, spec: Spec | None = None) -> int:
    """The least memory to answer with: the weights, what is made of them, and keys and values of one short sequence."""
    copied_bytes = spec.copied_bytes(facts) if spec else 0
    return (
        facts.weight_bytes + copied_bytes + facts.kv_bytes_per_token * min(facts.max_len, MIN_CONTEXT_TOKENS)
    )


def misfit(facts: ModelFacts, budgets_bytes: Iterable[int], spec: Spec | None = None) -> ModelFault | None:
    """Why no node can hold the model, with the figures; None if one can."""
    largest = max(budgets_bytes, default=0)
    needed = needed_bytes(facts, spec)
    if needed <= largest:
        return None
    message = (
        f"the model needs {shown(needed)} ({shown(facts.weight_bytes)} of weights, the rest for one short "
        f"conversation); the largest node may use {shown(largest)}"
    )
    next_step = (
        "push a smaller model or save it in a smaller dtype, or give a node more memory and push again"
    )
    return ModelFault("does_not_fit", message, next_step)


def misplaced(facts: ModelFacts, spec: Spec) -> ModelFault | None:
    """Why the engine that the model names cannot serve its kind; None if it can."""
    if facts.kind != "rerank" or spec.engine in {None, OWN_ENGINE}:
        return None
    return ModelFault(
        "bad_model_toml",
        f"model.toml names the engine {spec.engine!r} for a model that reranks, which only our own engine serves",
        "leave `engine` out of model.toml and push again",
    )


def shown(num_bytes: int) -> str:
    """A size for people."""
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB else f"{num_bytes / MIB:.1f} MiB"
