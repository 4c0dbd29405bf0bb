"""A revision: one immutable description of a committed model, the same bytes in every region.

It says which files there are, where every tensor lies, and in which verified pieces (extents) the weights
are moved, in execution order. Its id is the BLAKE3 of its canonical JSON (sorted keys, no spaces, no time
stamps), so two regions that hold the same id hold the same model. Standard library and blake3 only: the
regions import this.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from blake3 import blake3

from weights_cache.coverage import DTYPE_BYTES, Extent, FileEntry, TensorEntry, check_extents, check_tensors
from weights_cache.strict import (
    StrictError,
    boolean,
    hexadecimal,
    integer,
    number,
    one_of,
    optional,
    parse,
    several,
    text,
)
from weights_cache.strict import fields as read_fields

__all__ = [
    "MAX_DIMS",
    "MAX_EXTENT_BYTES",
    "MAX_FILES",
    "MAX_PATH_CHARS",
    "MAX_REVISION_BYTES",
    "MAX_TENSORS",
    "MODEL_NAME",
    "PREWARM",
    "TENSOR_NAME",
    "Extent",
    "FileEntry",
    "LeftOut",
    "ModelFacts",
    "Revision",
    "RevisionError",
    "Spec",
    "TensorEntry",
    "canonical_json",
]

SCHEMA = "nearfield.revision/1"
MAX_REVISION_BYTES = 64 << 20  # 65,536 tensors and their extents at ~350 bytes each are 46 MiB
MAX_FILES = 4_096  # the largest public checkpoints have ~300 shards
MAX_TENSORS = 65_536  # as weights_cache.header: a whole model obeys the cap of one file
MAX_EXTENTS = 131_072  # 65,536 tensors, plus 16 MiB slices of 1 TiB
MAX_EXTENT_BYTES = 16 << 20  # one ranged GET: large enough for line rate, small enough to fetch again
MAX_DIMS = 8  # torch itself prints at most this many; no model has more than 5
MAX_LAYERS = 65_536  # no more layers than tensors
MAX_PATH_CHARS = 512
MAX_REASON_CHARS = 500

MODEL_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
TENSOR_NAME = r"[A-Za-z0-9._-]{1,256}"
_DAY, _TIME = r"(?:mon|tue|wed|thu|fri|sat|sun)", r"(?:[01][0-9]|2[0-3]):[0-5][0-9]"
PREWARM = rf"(?:{_DAY}(?:-{_DAY}|(?:,{_DAY}){{0,6}}) )?{_TIME}-{_TIME}"  # mon-fri 08:00-18:00
MAX_PREWARM = 32  # windows of a week
FILE_PATH = r"[A-Za-z0-9_][A-Za-z0-9._ +=@,()-]*(/[A-Za-z0-9_][A-Za-z0-9._ +=@,()-]*)*"


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
        return cls(**_translated(lambda: read_fields(value, _FACTS, "facts")))

    def as_value(self) -> dict[str, Any]:
        """The facts as JSON-ready values."""
        return _plain(self)


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
    """Linear layers in 8-bit integers, made by the engine (`inference.engine.int8`)."""
    residency: tuple[str, ...] | None = None
    """The places (regions or areas) outside which no request for it may go (`regions.places`)."""
    deterministic: bool | None = None
    """Answers whose every number is the same whatever else runs (`inference.engine.fixed`)."""

    @classmethod
    def from_value(cls, value: object) -> "Spec":
        """The spec in a parsed JSON object. Raises RevisionError."""
        return cls(**_translated(lambda: _spec_fields(value, "spec")))

    def copied_bytes(self, facts: ModelFacts) -> int:
        """What an engine makes of the weights beside them, at most: a byte of each that is quantised."""
        return facts.num_params if self.quantize else 0

    def as_value(self) -> dict[str, Any]:
        """The spec as JSON-ready values; later keys only where they are said, so that older revisions keep their id."""
        idle, values = self.idle_timeout_s, _plain(self)
        values = {name: value for name, value in values.items() if name not in _LATER or value is not None}
        return values | {"idle_timeout_s": None if idle is None else float(idle)}


@dataclass(frozen=True, slots=True)
class Revision:
    """One committed model. Checked when made (RevisionError), so a Revision in hand is consistent."""

    model: str
    files: tuple[FileEntry, ...]
    tensors: tuple[TensorEntry, ...]
    extents: tuple[Extent, ...]
    facts: ModelFacts
    spec: Spec = Spec()
    left_out: tuple[LeftOut, ...] = ()
    id: str = field(init=False, compare=False, default="")

    def __post_init__(self) -> None:
        _translated(lambda: check_tensors(self.files, self.tensors))
        _translated(lambda: check_extents(self.files, self.tensors, self.extents))
        object.__setattr__(self, "id", blake3(self.to_json()).hexdigest())

    def as_value(self) -> dict[str, Any]:
        """The revision as JSON-ready values (what travels inside `POST /load`)."""
        return {
            "schema": SCHEMA,
            "model": self.model,
            "files": [_plain(entry) for entry in self.files],
            "tensors": [_plain(entry) for entry in self.tensors],
            "extents": [_plain(entry) for entry in self.extents],
            "facts": self.facts.as_value(),
            "spec": self.spec.as_value(),
            "left_out": [_plain(entry) for entry in self.left_out],
        }

    def to_json(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces, UTF-8."""
        return canonical_json(self.as_value())

    @classmethod
    def from_json(cls, data: bytes) -> "Revision":
        """The revision in `data` (at most 64 MiB). Strict: raises RevisionError for anything out of place."""
        return cls.from_value(_translated(lambda: parse(data, MAX_REVISION_BYTES)))

    @classmethod
    def from_value(cls, value: object) -> "Revision":
        """The revision in a parsed JSON object, read as strictly as `from_json`."""
        found = _translated(lambda: read_fields(value, _REVISION, "revision"))
        del found["schema"]
        return cls(**found)

    @classmethod
    def of_checked(cls, value: Mapping[str, Any]) -> "Revision":
        """The revision that another process of ours holds, of what its `as_value` gave: it was checked there.

        Checking 300 tensors anew takes 12 ms of a start, of which this is one.
        """
        found = object.__new__(cls)
        parts = {
            "model": value["model"],
            "files": tuple(FileEntry(**each) for each in value["files"]),
            "tensors": tuple(TensorEntry(**_held(each)) for each in value["tensors"]),
            "extents": tuple(Extent(**_held(each)) for each in value["extents"]),
            "facts": ModelFacts(**_held(value["facts"])),
            "spec": Spec(**_held(value["spec"])),
            "left_out": tuple(LeftOut(**each) for each in value["left_out"]),
            "id": blake3(canonical_json(value)).hexdigest(),
        }
        for name, part in parts.items():
            object.__setattr__(found, name, part)
        return found

    @property
    def weight_files(self) -> tuple[int, ...]:
        """Indices of the files that hold tensors, ascending."""
        return tuple(sorted({tensor.file for tensor in self.tensors}))

    @property
    def small_files(self) -> tuple[FileEntry, ...]:
        """The files without tensors: config, tokenizer, templates."""
        weights = set(self.weight_files)
        return tuple(entry for number, entry in enumerate(self.files) if number not in weights)


def canonical_json(value: object) -> bytes:
    """The one byte form of a JSON value: what digests and signatures are made over."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def _plain(entry: Any) -> dict[str, Any]:
    values = ((name, getattr(entry, name)) for name in entry.__slots__)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values}


def _held(values: Mapping[str, Any]) -> dict[str, Any]:
    """`_plain`'s opposite."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _translated(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except StrictError as error:
        raise RevisionError(str(error)) from error


def _object_reader(make: Callable[..., Any], table: dict[str, Any]) -> Callable[[object, str], Any]:
    return lambda value, where: make(**read_fields(value, table, where))


def _spec_fields(value: object, where: str) -> dict[str, Any]:
    """The fields of a spec. One that was made before there was such a key lacks it."""
    said = value if isinstance(value, dict) else {}
    table = _SPEC | {name: read for name, read in _LATER.items() if name in said}
    return read_fields(value, table, where)


_index = integer(0, MAX_TENSORS - 1)
_short = text(200)
_FILE = {
    "path": text(MAX_PATH_CHARS, FILE_PATH),
    "size": integer(),
    "blake3": hexadecimal(64),
    "etag": _short,
}
_TENSOR = {
    "name": text(256, TENSOR_NAME),
    "dtype": one_of(*DTYPE_BYTES),
    "shape": several(integer(), MAX_DIMS),
    "file": integer(0, MAX_FILES - 1),
    "offset": integer(),
    "length": integer(),
}
_EXTENT = {
    "file": integer(0, MAX_FILES - 1),
    "offset": integer(),
    "length": integer(1, MAX_EXTENT_BYTES),
    "xxh3": hexadecimal(16),
    "blake3": hexadecimal(64),
    "layer": integer(-1, MAX_LAYERS),
    "tensors": several(_index, MAX_TENSORS),
}
_FACTS = {
    "kind": one_of("generate", "embed", "rerank"),
    "architecture": _short,
    "model_type": _short,
    "dtype": _short,
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
    "prewarm": optional(several(text(40, PREWARM), MAX_PREWARM)),
    "quantize": optional(one_of("int8")),
    "deterministic": optional(boolean),
    "residency": optional(several(text(32, r"[a-z][a-z0-9-]*"), 64)),
}
_LEFT_OUT = {"path": text(1_024), "reason": text(MAX_REASON_CHARS)}
_REVISION = {
    "schema": one_of(SCHEMA),
    "model": text(160, MODEL_NAME),
    "files": several(_object_reader(FileEntry, _FILE), MAX_FILES),
    "tensors": several(_object_reader(TensorEntry, _TENSOR), MAX_TENSORS),
    "extents": several(_object_reader(Extent, _EXTENT), MAX_EXTENTS),
    "facts": _object_reader(ModelFacts, _FACTS),
    "spec": lambda value, where: Spec(**_spec_fields(value, where)),
    "left_out": several(_object_reader(LeftOut, _LEFT_OUT), 10_000),
}
