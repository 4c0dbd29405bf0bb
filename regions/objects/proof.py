"""What became of a revision's boot and probes in one region: the record that is kept with the revision, and read later.

Rule 1: a region writes it before the revision goes live there, or when it refuses it.
Rule 2: the home region keeps all regions' as long as it keeps the revision; a region that cannot reach home keeps its
    own until home has it.
Rule 3: a cold figure is of a boot. One that found the revision in a process already does not replace it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from regions.map.names import DEPLOYED_PATTERN, MAX_DEPLOYED_CHARS
from regions.map.region import ModelFault, Tier
from regions.objects.pointer import PointerError
from weights_cache.model.revision import canonical_json
from weights_cache.model.strict import (
    StrictError,
    boolean,
    fields,
    hexadecimal,
    integer,
    number,
    one_of,
    optional,
    parse,
    text,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from regions.nodes.answers import LoadLine
    from weights_cache.model.strict import Reader

PROOF_SCHEMA = "nearfield.proof/1"
MAX_PROOF_BYTES = 16 << 10
MAX_NAMES = 64  # of phases and of sources
MAX_S = 1e6
Json = bytes  # a proof has a field of that name
NO_MS: Mapping[str, float] = MappingProxyType({})
NO_BYTES: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Proof:
    """One boot and what it answered.

    `cold_s` is from the order to load until the first answer, `warm_s` the same question once more; None: it never
    came so far. `start` is where the bytes were, `phases` are milliseconds of the boot by name, `bytes` what it read by
    source (`origin`: from the home region). `at_s` is in seconds since 1970.
    """

    model: str
    revision: str
    region: str
    at_s: int
    ok: bool
    start: str = ""
    cold_s: float | None = None
    warm_s: float | None = None
    phases: Mapping[str, float] = field(default_factory=lambda: NO_MS)
    bytes: Mapping[str, int] = field(default_factory=lambda: NO_BYTES)
    fault: ModelFault | None = None

    @property
    def was_boot(self) -> bool:
        """Whether it saw a start, and not a process that was there."""
        return self.start != Tier.RESIDENT

    @property
    def remote_bytes(self) -> int:
        """What came from another region."""
        return self.bytes.get("origin", 0)

    def over(self, before: Proof | None) -> Proof:
        """What to keep when `before` is kept: its cold figures stand where this one saw no boot."""
        if before is None or not before.ok or not self.ok or self.was_boot:
            return self
        return replace(before, at_s=self.at_s, warm_s=self.warm_s)

    def as_value(self) -> dict[str, Any]:
        """JSON-ready."""
        value = {name: getattr(self, name) for name in self.__slots__}
        value |= {"phases": dict(self.phases), "bytes": dict(self.bytes)}
        return {"schema": PROOF_SCHEMA, **value, "fault": asdict(self.fault) if self.fault else None}

    def to_json(self) -> Json:
        """Canonical JSON with its schema."""
        return canonical_json(self.as_value())

    @classmethod
    def from_json(cls, data: Json) -> Proof:
        """The proof in `data`. Raises PointerError."""
        try:
            found = fields(parse(data, MAX_PROOF_BYTES), _PROOF, "proof")
        except StrictError as error:
            raise PointerError(str(error)) from error
        del found["schema"]
        return cls(**found)


class Proving:
    """Takes in a boot and its answers as they come, by the clock that it is given; then says what they prove."""

    def __init__(self, model: str, revision: str, region: str, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began, self._loaded, self._cold = clock(), 0.0, 0.0
        self._proof = Proof(model, revision, region, 0, ok=False)

    def heard(self, line: LoadLine) -> None:
        """The node said how the load is going; only its last line has figures."""
        if line.phase != "ready":
            return
        self._loaded = self._clock()
        self._proof = replace(
            self._proof, start=line.start, phases=dict(line.phases or {}), bytes=dict(line.bytes or {})
        )

    def brought(self, num_bytes: int) -> None:
        """So many came from the home region before it."""
        self._proof = replace(self._proof, bytes={**self._proof.bytes, "origin": num_bytes})

    def answered(self) -> None:
        """The first answer is there, or the one to the same question once more."""
        now = self._clock()
        if self._proof.cold_s is None:
            phases = {**self._proof.phases, "answer": round(1e3 * (now - self._loaded), 3)}
            self._proof = replace(self._proof, cold_s=round(now - self._began, 6), phases=phases)
        else:
            self._proof = replace(self._proof, warm_s=round(now - self._cold, 6))
        self._cold = now

    def passed(self, at_s: float) -> Proof:
        """It may go live."""
        return replace(self._proof, at_s=int(at_s), ok=True)

    def failed(self, at_s: float, fault: ModelFault) -> Proof:
        """It may not, and why."""
        short = ModelFault(fault.code[:100], fault.message[:4_000], fault.next[:4_000])
        return replace(self._proof, at_s=int(at_s), fault=short)


def _named(read: Reader) -> Reader:
    """An object of short names."""

    def read_all(value: object, where: str) -> Mapping[str, Any]:
        if not isinstance(value, dict) or len(value) > MAX_NAMES:
            raise StrictError(f"{where} is no object of at most {MAX_NAMES} names")
        name = text(64)
        return MappingProxyType({name(key, where): read(each, where) for key, each in value.items()})

    return read_all


def _fault(value: object, where: str) -> ModelFault:
    return ModelFault(
        **fields(value, {"code": text(100), "message": text(4_000), "next": text(4_000)}, where)
    )


_PROOF = {
    "schema": one_of(PROOF_SCHEMA),
    "model": text(MAX_DEPLOYED_CHARS, DEPLOYED_PATTERN),
    "revision": hexadecimal(64),
    "region": text(63),
    "at_s": integer(),
    "ok": boolean,
    "start": text(20),
    "cold_s": optional(number(0.0, MAX_S)),
    "warm_s": optional(number(0.0, MAX_S)),
    "phases": _named(number(0.0, 1e3 * MAX_S)),
    "bytes": _named(integer()),
    "fault": optional(_fault),
}
