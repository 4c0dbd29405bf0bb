"""What a shell tells an engine to be: the checked form of the fork message's `spec`. No torch, no transformers."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inference.devices import CPU, parse_device
from inference.engine.steps.drafts import MOST_DRAFTS
from weights_cache.model.plan import MappedFile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DTYPES = frozenset({"auto", "float32", "bfloat16", "float16"})
QUANTIZED = frozenset({"int8", None})
UNLIKE = frozenset({"revision", "config", "gated", "usage_log"})
"""What engines that are made by one mold may differ in, of one revision (`engine.attach.mold`)."""


class SpecError(ValueError):
    """The node asked for an engine that cannot be."""


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """One engine.

    Attributes:
        revision: The revision, as `Revision.as_value()` gives it.
        config: The parsed `config.json` of the model.
        dtype: "auto" (as stored), "float32", "bfloat16" or "float16".
        max_slots: Requests that run together at most.
        max_len: Tokens of prompt and answer together; 0 means what the model itself allows.
        num_threads: Threads of one matrix product.
        kv_budget_bytes: Memory for keys and values of all slots.
        packed_bytes: Memory for a second copy of the weights (`engine.linear.packing`); too little of it: none.
        mapped: The landing's files that are mapped where the store has them, as [number, start of the data]; their
            descriptors follow the landing's own.
        device: What it computes on (`inference.devices`).
        quantize: "int8" (`inference.engine.linear.int8`), or nothing.
        deterministic: Every number bitwise the same at any batch size (`inference.engine.fixed`).
        num_speculative_tokens: Tokens of each row that a step guesses, at most (`engine.steps.drafts`); 0 for none.
        gated: Start before every byte has landed, each layer waiting for its own.
        usage_log: Where it writes down what each order cost: a folder and the log's name there; empty for nowhere.
    """

    revision: Mapping[str, Any]
    config: Mapping[str, Any]
    dtype: str = "auto"
    max_slots: int = 8
    max_len: int = 0
    num_threads: int = 1
    kv_budget_bytes: int = 1 << 30
    packed_bytes: int = 0
    device: str = CPU
    quantize: str | None = None
    deterministic: bool = False
    num_speculative_tokens: int = MOST_DRAFTS
    gated: bool = True
    usage_log: str = ""
    mapped: Sequence[Sequence[int]] = ()

    @property
    def mapped_files(self) -> tuple[MappedFile, ...]:
        """`mapped`, as the landing's layout takes it."""
        return tuple(MappedFile(file, data_at) for file, data_at in self.mapped)

    @classmethod
    def from_value(cls, value: object) -> EngineSpec:
        """The spec in a parsed JSON object.

        Raises:
            SpecError: a field is unknown, missing or out of range.
        """
        if not isinstance(value, dict):
            raise SpecError("the spec is not an object")
        if unknown := value.keys() - cls.__dataclass_fields__.keys():
            raise SpecError(f"unknown fields {sorted(unknown)}")
        if not isinstance(value.get("revision"), dict) or not isinstance(value.get("config"), dict):
            raise SpecError("revision and config must be objects")
        spec = cls(**value)
        if spec.dtype not in DTYPES:
            raise SpecError(f"dtype must be one of {sorted(DTYPES)}")
        if spec.quantize not in QUANTIZED:
            raise SpecError('quantize must be "int8" or nothing')
        _check_device(spec.device)
        if not isinstance(spec.usage_log, str):
            raise SpecError("usage_log must be a path")
        if not isinstance(spec.deterministic, bool):
            raise SpecError("deterministic must be true or false")
        spec._check_numbers()
        spec._check_mapped()
        return spec

    def _check_numbers(self) -> None:
        least = {"max_slots": 1, "num_threads": 1, "kv_budget_bytes": 1}
        least |= dict.fromkeys(("max_len", "packed_bytes", "num_speculative_tokens"), 0)
        for name, low in least.items():
            number = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, int) or number < low:
                raise SpecError(f"{name} must be a whole number of at least {low}")

    def _check_mapped(self) -> None:
        pairs = self.mapped if isinstance(self.mapped, list | tuple) else [self.mapped]
        for pair in pairs:
            numbers = pair if isinstance(pair, list | tuple) else ()
            if len(numbers) != 2 or not all(type(each) is int and each >= 0 for each in numbers):
                raise SpecError("mapped must be pairs of whole numbers")


def _check_device(value: object) -> None:
    if not isinstance(value, str):
        raise SpecError("device must be a string")
    try:
        parse_device(value)
    except ValueError as cause:
        raise SpecError(str(cause)) from cause


def mold_key(revision_id: str, spec: Mapping[str, Any]) -> str:
    """The name of the mold that engines of this spec are made by.

    A revision has as many as there are specs of it: one whose landing maps the store's files is not laid out as one
    whose bytes were read, and a mold of the other would be of no use to it.
    """
    alike = json.dumps({name: spec[name] for name in sorted(spec.keys() - UNLIKE)})
    return f"{revision_id}/{hashlib.blake2b(alike.encode(), digest_size=8).hexdigest()}"
