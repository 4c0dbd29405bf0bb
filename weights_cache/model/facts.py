"""What a revision says of a model beside its bytes: what transformers knows of it, its own wishes, what was left out.

And how these are read: JSON in, checked values out, `RevisionError` for anything else.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from weights_cache.model.strict import (
    StrictError,
    boolean,
    integer,
    number,
    one_of,
    optional,
    several,
    text,
)
from weights_cache.model.strict import fields as read_fields

MAX_LAYERS = 65_536  # no more layers than tensors
MAX_REASON_CHARS = 500
_DAY, _TIME = r"(?:mon|tue|wed|thu|fri|sat|sun)", r"(?:[01][0-9]|2[0-3]):[0-5][0-9]"
PREWARM = rf"(?:{_DAY}(?:-{_DAY}|(?:,{_DAY}){{0,6}}) )?{_TIME}-{_TIME}"  # mon-fri 08:00-18:00
HOURS = 'hours in UTC, with or without days: "mon-fri 08:00-18:00", "sat,sun 09:00-23:59" or "22:00-06:00"'
MAX_PREWARM = 32  # windows of a week


class RevisionError(ValueError):
    """These bytes are not a revision; the message says where."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file of the prefix that is not part of the model, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What only transformers can say about a model; made by the node's `POST /inspect`."""

    kind: Literal["generate", "embed", "rerank"]
    architecture: str
    model_type: str
    dtype: str
    num_params: int
    num_layers: int
    max_len: int
    vocab_size: int
    kv_bytes_per_token: int
    weight_bytes: int
    eos_token_ids: tuple[int, ...] = ()
    has_chat_template: bool = False
    pooling: Literal["mean", "cls"] | None = None
    normalize: bool = False
    max_seq_len: int | None = None

    @property
    def context_tokens(self) -> int:
        """The longest input the model itself takes: an embedding model's own cut, else its positions."""
        return min(self.max_len, self.max_seq_len or self.max_len)

    @classmethod
    def from_value(cls, value: object) -> "ModelFacts":
        """The facts in a parsed JSON object. Raises RevisionError."""
        return cls(**translated(lambda: read_fields(value, FACTS_TABLE, "facts")))

    def as_value(self) -> dict[str, Any]:
        """The facts as JSON-ready values."""
        return plain(self)


@dataclass(frozen=True, slots=True)
class Spec:
    """The model's own wishes (`model.toml`); None means the platform's default."""

    regions: tuple[str, ...] | None = None
    min_replicas: int | None = None
    max_replicas: int | None = None
    idle_timeout_s: float | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_batch: int | None = None
    engine: str | None = None
    prewarm: tuple[str, ...] | None = None
    """Hours in which it is to be awake, UTC (`regions.gateway.schedule`)."""
    quantize: Literal["int8"] | None = None
    """Linear layers in 8-bit integers, made by the engine (`inference.engine.linear.int8`)."""
    residency: tuple[str, ...] | None = None
    """The places (regions or areas) outside which no request for it may go (`regions.places`)."""
    deterministic: bool | None = None
    """Answers whose every number is the same whatever else runs (`inference.engine.fixed`)."""

    num_speculative_tokens: int | None = None
    """Tokens of an answer that a step guesses, at most; 0 for none (`inference.engine.steps.drafts`)."""

    @classmethod
    def from_value(cls, value: object) -> "Spec":
        """The spec in a parsed JSON object. Raises RevisionError."""
        return cls(**translated(lambda: spec_fields(value, "spec")))

    def copied_bytes(self, facts: ModelFacts) -> int:
        """What an engine makes of the weights beside them, at most: two bytes of each that is quantised."""
        return 2 * facts.num_params if self.quantize else 0

    def as_value(self) -> dict[str, Any]:
        """The spec as JSON-ready values; later keys only where they are said, so that older revisions keep their id."""
        idle, values = self.idle_timeout_s, plain(self)
        values = {name: value for name, value in values.items() if name not in _LATER or value is not None}
        return values | {"idle_timeout_s": None if idle is None else float(idle)}


def plain(entry: Any) -> dict[str, Any]:
    """A part of a revision as JSON-ready values."""
    values = ((name, getattr(entry, name)) for name in entry.__slots__)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values}


def held(values: Mapping[str, Any]) -> dict[str, Any]:
    """`plain`'s opposite."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def translated(read: Callable[[], Any]) -> Any:
    """What `read` gives; a StrictError of it is a RevisionError here."""
    try:
        return read()
    except StrictError as error:
        raise RevisionError(str(error)) from error


def spec_fields(value: object, where: str) -> dict[str, Any]:
    """The fields of a spec. One that was made before there was such a key lacks it."""
    said = value if isinstance(value, dict) else {}
    table = _SPEC | {name: read for name, read in _LATER.items() if name in said}
    return read_fields(value, table, where)


short_text = text(200)
FACTS_TABLE = {
    "kind": one_of("generate", "embed", "rerank"),
    "architecture": short_text,
    "model_type": short_text,
    "dtype": short_text,
    "num_params": integer(),
    "num_layers": integer(0, MAX_LAYERS),
    "max_len": integer(1),
    "vocab_size": integer(),
    "kv_bytes_per_token": integer(),
    "weight_bytes": integer(),
    "eos_token_ids": several(integer(0, 2**31 - 1), 64),
    "has_chat_template": boolean,
    "pooling": one_of("mean", "cls", None),
    "normalize": boolean,
    "max_seq_len": optional(integer(1)),
}
_SPEC = {
    "regions": optional(several(text(63, r"[a-z0-9][a-z0-9-]*"), 256)),
    "min_replicas": optional(integer(0, 1_000)),
    "max_replicas": optional(integer(1, 1_000)),
    "idle_timeout_s": optional(number(0.0, 366 * 86_400.0)),
    "dtype": one_of("auto", "float32", "bfloat16", "float16"),
    "max_batch": optional(integer(1, 4_096)),
    "engine": optional(text(64, r"[A-Za-z0-9._-]+")),
}
_LATER = {
    "prewarm": optional(several(text(40, PREWARM, HOURS), MAX_PREWARM)),
    "quantize": optional(one_of("int8")),
    "deterministic": optional(boolean),
    "num_speculative_tokens": optional(integer(0, 64)),
    "residency": optional(several(text(32, r"[a-z][a-z0-9-]*"), 64)),
}
LEFT_OUT_TABLE = {"path": text(1_024), "reason": text(MAX_REASON_CHARS)}
