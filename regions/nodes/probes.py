"""What a model is asked before it goes live, and what its answer must hold. Pure.

The question is fixed, so figures of two revisions compare. It is asked twice: of a model that has just started, and of
the warm one. Both answers are greedy and must be the same: a start that went on with bytes that were not there yet, or
an engine that leaves something of one request in the next, says something else.
"""

from __future__ import annotations

from math import hypot, isfinite
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from regions.map.region import ModelFault
from wire.dial import DialError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from regions.map.region import Kind
    from regions.nodes.answers import NodeError
    from weights_cache.model.revision import Revision

PROBE_TEXT: Final = "hello world " * 32  # 64 words: long enough that the first prefill figure means something
LEAST_CHARS: Final = 5
TRY_LOCALLY: Final = "try it locally with transformers: are its weights whole? Then push it again"
MOST_TURN: Final = (
    0.02  # between two vectors of one text, as a share of their length; rounding stays under a thousandth
)
MOST_STEP: Final = 0.02  # between two scores of one text
Said = str | tuple[float, ...]  # a text, a vector, or one score


class Probe(NamedTuple):
    """What a model of one kind is asked, and how its answer is read."""

    path: str
    question: Callable[[str], dict[str, Any]]
    is_sound: Callable[[Mapping[str, Any]], bool]
    said: Callable[[Mapping[str, Any]], Said]
    wanted: str


def probe_of(revision: Revision) -> tuple[Probe, dict[str, Any]]:
    """The probe of a revision's kind, and its question."""
    text = PROBE_TEXT[: max(LEAST_CHARS, revision.facts.max_len // 2)]  # a character is a token at the most
    probe = PROBES[revision.facts.kind]
    return probe, {"model": revision.model, **probe.question(text)}


def is_steady(cold: Said, warm: Said) -> bool:
    """Whether two answers to one question are the same, but for rounding."""
    if isinstance(cold, str) or isinstance(warm, str):
        return cold == warm
    if len(cold) != len(warm):
        return False
    apart = hypot(*(one - other for one, other in zip(cold, warm, strict=True)))
    return apart <= (MOST_STEP if len(cold) == 1 else MOST_TURN * hypot(*cold))


def failed_probe(wanted: str) -> ModelFault:
    """The model loaded and cannot be used."""
    return ModelFault(
        "probe_failed",
        f"the model loaded, but the probe gave no {wanted}",
        "try it locally with transformers",
    )


def unsteady_probe(cold: Said, warm: Said) -> ModelFault:
    """It loaded, and what it says cannot be trusted."""
    shown = f": {cold!r:.40}, then {warm!r:.40}" if isinstance(cold, str) else ""
    message = f"asked the same twice, greedily, the model gave two answers{shown}"
    return ModelFault("probe_unsteady", message, TRY_LOCALLY)


def late_probe(seconds: float) -> ModelFault:
    """It loaded, and does not answer in time."""
    message = f"the model loaded, but did not answer the probe within {seconds:.0f} s"
    return ModelFault("probe_timeout", message, "push a smaller model, or try it locally with transformers")


def is_late(error: NodeError) -> bool:
    """Whether a node took the probe and was silent, instead of being away."""
    cause = error.__cause__
    return isinstance(cause, DialError) and cause.timed_out and cause.phase != "connect"


def has_token(answer: Mapping[str, Any]) -> bool:
    """Whether a completion holds at least one token."""
    usage = answer.get("usage")
    return bool(answer.get("choices")) and isinstance(usage, dict) and usage.get("completion_tokens", 0) >= 1


def has_vector(answer: Mapping[str, Any]) -> bool:
    """Whether an embedding is a vector of finite numbers."""
    data = answer.get("data")
    vector = (
        data[0].get("embedding") if isinstance(data, list) and data and isinstance(data[0], dict) else None
    )
    return isinstance(vector, list) and len(vector) > 0 and all(_finite(each) for each in vector)


def has_score(answer: Mapping[str, Any]) -> bool:
    """Whether a document was given a finite score."""
    found = answer.get("results")
    first = found[0] if isinstance(found, list) and found else None
    return isinstance(first, dict) and _finite(first.get("relevance_score"))


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and isfinite(value)


def _text(answer: Mapping[str, Any]) -> Said:
    first = answer["choices"][0]
    return str(first.get("text", "")) if isinstance(first, dict) else str(first)


PROBES: Final[dict[Kind, Probe]] = {
    "generate": Probe(
        "/v1/completions",
        lambda text: {"prompt": text, "max_tokens": 1, "temperature": 0},
        has_token,
        _text,
        "token",
    ),
    "embed": Probe(
        "/v1/embeddings",
        lambda text: {"input": text},
        has_vector,
        lambda answer: tuple(answer["data"][0]["embedding"]),
        "finite vector",
    ),
    "rerank": Probe(
        "/v1/rerank",
        lambda text: {"query": "hi", "documents": [text], "max_tokens_per_doc": len(text)},
        has_score,
        lambda answer: (float(answer["results"][0]["relevance_score"]),),
        "finite score",
    ),
}
