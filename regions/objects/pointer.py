"""The objects of `nearfield-system` as frozen values: a model's revision, and what became of a push."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from regions.map.names import DEPLOYED_PATTERN, MAX_DEPLOYED_CHARS, base_of
from regions.map.region import ModelFault
from weights_cache.model.revision import LeftOut, canonical_json
from weights_cache.model.strict import (
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
from weights_cache.model.strict import fields as read_fields

if TYPE_CHECKING:
    from weights_cache.model.revision import Revision
    from weights_cache.model.strict import Table

POINTER_SCHEMA = "nearfield.pointer/1"
LOCAL_SCHEMA = "nearfield.local/1"
JUDGED_SCHEMA = "nearfield.judged/1"
MAX_POINTER_BYTES = 256 << 10
MAX_PREVIOUS = 10  # revisions that a roll back can name
KEPT_PREVIOUS = 2  # of those, how many keep their blobs in the home region
KEPT_ABROAD = 1  # and in the others


class PointerError(ValueError):
    """Bytes in `nearfield-system` that are not what their key says; the message says where."""


@dataclass(frozen=True, slots=True)
class Pointer:
    """Which revision a model is at, and how it is served. Moved only by conditional writes.

    `previous` are earlier revisions, newest first. `regions` None: all. `serial` counts the moves, so that a
    push of the same bytes is a move too. `fingerprint` is of the listing that was committed. `pushed_s` is when it
    moved last, in seconds since 1970, and later than the move before even within one second, so that whoever waits for
    a move knows its rows from those before it. `at_once`: what it names has been proven already, as a preview or
    earlier; no canary goes first.
    """

    model: str
    revision: str
    previous: tuple[str, ...] = ()
    regions: tuple[str, ...] | None = None
    idle_timeout_s: float | None = None
    min_replicas: int | None = None
    max_replicas: int | None = None
    serial: int = 1
    fingerprint: str = ""
    pushed_s: int = 0
    at_once: bool = False

    def names(self, region: str) -> bool:
        """Whether the model is to be served in that region."""
        return self.regions is None or region in self.regions

    def moved(
        self, revision: Revision, fingerprint: str, pushed_s: int, regions: tuple[str, ...] | None = None
    ) -> Pointer:
        """The pointer after a push: what the push says goes, what it leaves open stays as it was.

        `regions` are those of the push itself; they go before those of its model.toml.
        """
        spec = revision.spec
        named = spec.regions if regions is None else regions
        return replace(
            self._at(revision.id, pushed_s),
            regions=self.regions if named is None else named,
            idle_timeout_s=self.idle_timeout_s if spec.idle_timeout_s is None else spec.idle_timeout_s,
            min_replicas=self.min_replicas if spec.min_replicas is None else spec.min_replicas,
            max_replicas=self.max_replicas if spec.max_replicas is None else spec.max_replicas,
            fingerprint=fingerprint,
        )

    def turned(self, revision: str, pushed_s: int, *, at_once: bool = True) -> Pointer:
        """The pointer back at a revision that it named before, as its settings are now.

        The fingerprint stays: what lies in the bucket is what it was, and is not committed once more.
        """
        return replace(self._at(revision, pushed_s), at_once=at_once)

    def promoted(self, preview: Pointer, pushed_s: int, *, at_once: bool) -> Pointer:
        """The pointer at what a preview of it serves, with what that says of how; the regions stay."""
        return replace(
            self.turned(preview.revision, pushed_s, at_once=at_once),
            idle_timeout_s=preview.idle_timeout_s,
            min_replicas=preview.min_replicas,
            max_replicas=preview.max_replicas,
        )

    def _at(self, revision: str, pushed_s: int) -> Pointer:
        before = () if revision == self.revision else (self.revision,)
        previous = tuple(each for each in (*before, *self.previous) if each != revision)
        return replace(
            self,
            revision=revision,
            previous=previous[:MAX_PREVIOUS],
            serial=self.serial + 1,
            pushed_s=max(pushed_s, self.pushed_s + 1),
            at_once=False,
        )

    def to_json(self) -> bytes:
        """Canonical JSON with its schema."""
        return canonical_json({"schema": POINTER_SCHEMA, **asdict(self)})

    @classmethod
    def from_json(cls, data: bytes) -> Pointer:
        """The pointer in `data`; fields it leaves out have their defaults. Raises PointerError."""
        return cls.from_value(_parsed(data))

    @classmethod
    def from_value(cls, value: object) -> Pointer:
        """The pointer in a parsed JSON object. Raises PointerError."""
        defaults = {part.name: part.default for part in fields(cls) if part.name not in {"model", "revision"}}
        return cls(**_read(value, _POINTER, "pointer", defaults))


def first_pointer(
    revision: Revision,
    fingerprint: str,
    pushed_s: int,
    regions: tuple[str, ...] | None = None,
    model: str | None = None,
) -> Pointer:
    """The pointer of a model, or of its preview `model`, that had none."""
    return Pointer(model or revision.model, revision.id, serial=0).moved(
        revision, fingerprint, pushed_s, regions
    )


def new_pointer(preview: Pointer, pushed_s: int) -> Pointer:
    """The pointer of a model that was only ever a preview: that is proven, and nothing is replaced."""
    return replace(
        preview, model=base_of(preview.model), previous=(), serial=1, fingerprint="", pushed_s=pushed_s
    )


@dataclass(frozen=True, slots=True)
class LocalRecord:
    """What a region keeps of a model so that it serves it after a restart with the home region dead.

    `live` is the revision that answers, None before the first one does; `fault` is why the other failed.
    """

    pointer: Pointer
    live: str | None = None
    fault: ModelFault | None = None

    def to_json(self) -> bytes:
        """Canonical JSON with its schema."""
        fault = None if self.fault is None else asdict(self.fault)
        pointer = {"schema": POINTER_SCHEMA, **asdict(self.pointer)}
        return canonical_json({"schema": LOCAL_SCHEMA, "pointer": pointer, "live": self.live, "fault": fault})

    @classmethod
    def from_json(cls, data: bytes) -> LocalRecord:
        """The record in `data`. Raises PointerError."""
        return cls(**_read(_parsed(data), _LOCAL, "record", {}))


@dataclass(frozen=True, slots=True)
class Judged:
    """What was decided about a listing, so that a restart need not: refused for `fault`, else committed.

    `serial` is the pointer's at that time, 0 without one; None in a record of before it was kept.
    """

    model: str
    fingerprint: str
    fault: ModelFault | None = None
    left_out: tuple[LeftOut, ...] = ()
    serial: int | None = None

    def to_json(self) -> bytes:
        """Canonical JSON with its schema."""
        return canonical_json({"schema": JUDGED_SCHEMA, **asdict(self)})

    @classmethod
    def from_json(cls, data: bytes) -> Judged:
        """The record in `data`. Raises PointerError."""
        return cls(**_read(_parsed(data), _JUDGED, "judged", {"serial": None}))


@dataclass(frozen=True, slots=True)
class Status:
    """What the pusher reads beside the files: `state` waiting, refused, committed, live or failed.

    `pushed_s` is the pointer's, of the move that made it `revision`; 0 while there was none.
    """

    state: Literal["waiting", "refused", "committed", "live", "failed"]
    revision: str | None = None
    fault: ModelFault | None = None
    left_out: tuple[LeftOut, ...] = ()
    pushed_s: int = 0

    def to_json(self) -> bytes:
        """Canonical JSON with its schema."""
        fault = self.fault or ModelFault("", "", "")
        value: dict[str, Any] = {
            "schema": "nearfield.status/1",
            "state": self.state,
            "revision": self.revision,
            "pushed_s": self.pushed_s,
            "code": fault.code or None,
            "message": fault.message or None,
            "next": fault.next or None,
            "left_out": [{"path": each.path, "reason": each.reason} for each in self.left_out],
        }
        return canonical_json(value)


def _parsed(data: bytes) -> object:
    try:
        return parse(data, MAX_POINTER_BYTES)
    except StrictError as error:
        raise PointerError(str(error)) from error


def _read(value: object, table: Table, where: str, defaults: dict[str, Any]) -> dict[str, Any]:
    if isinstance(value, dict):
        plain = {key: list(each) if isinstance(each, tuple) else each for key, each in defaults.items()}
        value = plain | {key: each for key, each in value.items() if key in table}
    try:
        found = read_fields(value, table, where)
    except StrictError as error:
        raise PointerError(str(error)) from error
    del found["schema"]
    return found


def _fault(value: object, where: str) -> ModelFault:
    return ModelFault(**read_fields(value, {"code": text(100), "message": _LINE, "next": _LINE}, where))


def _left_out(value: object, where: str) -> LeftOut:
    return LeftOut(**read_fields(value, {"path": text(1_024), "reason": text(500)}, where))


def _pointer(value: object, _where: str) -> Pointer:
    return Pointer.from_value(value)


_LINE = text(4_000)
_NAME = text(MAX_DEPLOYED_CHARS, DEPLOYED_PATTERN)
_POINTER = {
    "schema": one_of(POINTER_SCHEMA),
    "model": _NAME,
    "revision": hexadecimal(64),
    "previous": several(hexadecimal(64), MAX_PREVIOUS),
    "regions": optional(several(text(63, r"[a-z0-9][a-z0-9-]*"), 256)),
    "idle_timeout_s": optional(number(0.0, 366 * 86_400.0)),
    "min_replicas": optional(integer(0, 1_000)),
    "max_replicas": optional(integer(1, 1_000)),
    "serial": integer(),
    "fingerprint": text(100),
    "pushed_s": integer(),
    "at_once": boolean,
}
_LOCAL = {
    "schema": one_of(LOCAL_SCHEMA),
    "pointer": _pointer,
    "live": optional(hexadecimal(64)),
    "fault": optional(_fault),
}
_JUDGED = {
    "schema": one_of(JUDGED_SCHEMA),
    "model": _NAME,
    "fingerprint": text(100),
    "fault": optional(_fault),
    "left_out": several(_left_out, 10_000),
    "serial": optional(integer()),
}
