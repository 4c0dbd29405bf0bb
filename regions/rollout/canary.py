"""Who goes first with a new revision, and what came of it there: the others wait for its word.

The first revision of a model replaces nothing and goes everywhere at once. A later one is made live in the canary
region alone, where the old one stays at hand; after it has stood its bake there the canary's verdict, an object of the
home region, lets the others go on. If it falls, the canary goes back by itself and the others never leave the old one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from regions.map.names import DEPLOYED_PATTERN, MAX_DEPLOYED_CHARS, is_preview
from regions.map.region import ModelFault
from regions.objects.pointer import PointerError
from weights_cache.model.revision import canonical_json
from weights_cache.model.strict import (
    StrictError,
    fields,
    hexadecimal,
    integer,
    one_of,
    optional,
    parse,
    text,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from regions.map.policy import Canary
    from regions.objects.pointer import Pointer

VERDICT_SCHEMA = "nearfield.verdict/1"
MAX_VERDICT_BYTES = 16 << 10
FAULTS = frozenset(
    {"worker_lost", "upstream_failed", "engine_failed", "500", "502"}
)  # of a revision, not of callers
MOST_FAULTS = 3  # requests that a revision may fail while it bakes, or
MOST_SHARE = 0.1  # this share of them, whichever is more


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the canary `region` says of a revision; `serial` is the move of the pointer that it is about."""

    model: str
    revision: str
    serial: int
    region: str
    state: Literal["baking", "passed", "failed"]
    fault: ModelFault | None = None

    def is_about(self, pointer: Pointer) -> bool:
        """Whether it goes for what the pointer names: what passed once is good, what failed may be pushed again."""
        if self.revision != pointer.revision:
            return False
        return self.state == "passed" or self.serial == pointer.serial

    def to_json(self) -> bytes:
        """Canonical JSON with its schema."""
        return canonical_json({"schema": VERDICT_SCHEMA, **asdict(self)})

    @classmethod
    def from_json(cls, data: bytes) -> Verdict:
        """The verdict in `data`. Raises PointerError."""
        try:
            found = fields(parse(data, MAX_VERDICT_BYTES), _VERDICT, "verdict")
        except StrictError as error:
            raise PointerError(str(error)) from error
        del found["schema"]
        return cls(**found)


def canary_of(pointer: Pointer, canary: Canary, all_regions: Sequence[str]) -> str | None:
    """The region that goes first with what a pointer names; None where there is nothing to wait for.

    A preview has no traffic to protect, and a revision that was proven before is no new one.
    """
    named = [region for region in all_regions if pointer.names(region)]
    if pointer.at_once or is_preview(pointer.model) or not pointer.previous or len(named) < 2:
        return None
    return next((region for region in canary.regions if region in named), named[0])


def has_fallen(num_done: int, num_failed: int) -> bool:
    """Whether a revision failed more of its callers than chance would have it."""
    return num_failed > max(MOST_FAULTS, MOST_SHARE * num_done)


def passed_on(verdict: Verdict) -> ModelFault:
    """What the other regions say of a revision that fell."""
    fault = verdict.fault or ModelFault("canary_failed", "it did not stand its bake", "push the model again")
    message = f"it fell in the canary region {verdict.region}: {fault.message}"
    return ModelFault("canary_failed", message[:1000], fault.next)


def _fault(value: object, where: str) -> ModelFault:
    table = {"code": text(100), "message": text(4_000), "next": text(4_000)}
    return ModelFault(**fields(value, table, where))


_VERDICT = {
    "schema": one_of(VERDICT_SCHEMA),
    "model": text(MAX_DEPLOYED_CHARS, DEPLOYED_PATTERN),
    "revision": hexadecimal(64),
    "serial": integer(),
    "region": text(63),
    "state": one_of("baking", "passed", "failed"),
    "fault": optional(_fault),
}
