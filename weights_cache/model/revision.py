"""A revision: one immutable description of a committed model, the same bytes in every region.

It says which files there are, where every tensor lies, and in which verified pieces (extents) the weights
are moved, in execution order. Its id is the BLAKE3 of its canonical JSON (sorted keys, no spaces, no time
stamps), so two regions that hold the same id hold the same model. Standard library and blake3 only: the
regions import this.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3

from weights_cache.model.coverage import (
    DTYPE_BYTES,
    Extent,
    FileEntry,
    TensorEntry,
    check_extents,
    check_tensors,
)
from weights_cache.model.facts import (
    FACTS_TABLE,
    LEFT_OUT_TABLE,
    MAX_LAYERS,
    PREWARM,
    LeftOut,
    ModelFacts,
    RevisionError,
    Spec,
    held,
    plain,
    short_text,
    spec_fields,
    translated,
)
from weights_cache.model.strict import fields as read_fields
from weights_cache.model.strict import (
    hexadecimal,
    integer,
    one_of,
    parse,
    several,
    text,
)

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
MAX_TENSORS = 65_536  # as weights_cache.model.header: a whole model obeys the cap of one file
MAX_EXTENTS = 131_072  # 65,536 tensors, plus 16 MiB slices of 1 TiB
MAX_EXTENT_BYTES = 16 << 20  # one ranged GET: large enough for line rate, small enough to fetch again
MAX_DIMS = 8  # torch itself prints at most this many; no model has more than 5
MAX_PATH_CHARS = 512

MODEL_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
TENSOR_NAME = r"[A-Za-z0-9._-]{1,256}"
FILE_PATH = r"[A-Za-z0-9_][A-Za-z0-9._ +=@,()-]*(/[A-Za-z0-9_][A-Za-z0-9._ +=@,()-]*)*"


@dataclass(frozen=True, slots=True)
class Revision:
    """One committed model. Checked when made (RevisionError), so a Revision in hand is consistent."""

    model: str
    files: tuple[FileEntry, ...]
    tensors: tuple[TensorEntry, ...]
    extents: tuple[Extent, ...]
    facts: ModelFacts
    spec: Spec = field(default_factory=Spec)
    left_out: tuple[LeftOut, ...] = ()
    id: str = field(init=False, compare=False, default="")

    def __post_init__(self) -> None:
        translated(lambda: check_tensors(self.files, self.tensors))
        translated(lambda: check_extents(self.files, self.tensors, self.extents))
        object.__setattr__(self, "id", blake3(self.to_json()).hexdigest())

    def as_value(self) -> dict[str, Any]:
        """The revision as JSON-ready values (what travels inside `POST /load`)."""
        return {
            "schema": SCHEMA,
            "model": self.model,
            "files": [plain(entry) for entry in self.files],
            "tensors": [plain(entry) for entry in self.tensors],
            "extents": [plain(entry) for entry in self.extents],
            "facts": self.facts.as_value(),
            "spec": self.spec.as_value(),
            "left_out": [plain(entry) for entry in self.left_out],
        }

    def to_json(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces, UTF-8."""
        return canonical_json(self.as_value())

    @classmethod
    def from_json(cls, data: bytes) -> "Revision":
        """The revision in `data` (at most 64 MiB). Strict: raises RevisionError for anything out of place."""
        return cls.from_value(translated(lambda: parse(data, MAX_REVISION_BYTES)))

    @classmethod
    def from_value(cls, value: object) -> "Revision":
        """The revision in a parsed JSON object, read as strictly as `from_json`."""
        found = translated(lambda: read_fields(value, _REVISION, "revision"))
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
            "tensors": tuple(TensorEntry(**held(each)) for each in value["tensors"]),
            "extents": tuple(Extent(**held(each)) for each in value["extents"]),
            "facts": ModelFacts(**held(value["facts"])),
            "spec": Spec(**held(value["spec"])),
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


def _object_reader(make: Callable[..., Any], table: dict[str, Any]) -> Callable[[object, str], Any]:
    return lambda value, where: make(**read_fields(value, table, where))


_index = integer(0, MAX_TENSORS - 1)
_FILE = {
    "path": text(MAX_PATH_CHARS, FILE_PATH),
    "size": integer(),
    "blake3": hexadecimal(64),
    "etag": short_text,
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
_REVISION = {
    "schema": one_of(SCHEMA),
    "model": text(160, MODEL_NAME),
    "files": several(_object_reader(FileEntry, _FILE), MAX_FILES),
    "tensors": several(_object_reader(TensorEntry, _TENSOR), MAX_TENSORS),
    "extents": several(_object_reader(Extent, _EXTENT), MAX_EXTENTS),
    "facts": _object_reader(ModelFacts, FACTS_TABLE),
    "spec": lambda value, where: Spec(**spec_fields(value, where)),
    "left_out": several(_object_reader(LeftOut, LEFT_OUT_TABLE), 10_000),
}
