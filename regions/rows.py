"""Signed lines folded into a snapshot, one by one: what an edge knows of each region, and of keys and rules. Pure.

A whole row replaces what was known of its region. Parts of one are gathered, in order, and come into force together. A
change is applied to the whole row that it names; where that is not held there is a `gap`, and the edge asks for the
rows again. A beat is a change in which no model differs from the last one: it costs no more with more models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from regions.map.policy import PolicyRow
from regions.map.region import MAX_MODELS, ModelRow, RegionRow
from regions.offer import Offer, offers, offers_after, starts_cold
from regions.row_bodies import region_body, rules_body
from regions.row_codec import (
    Change,
    Part,
    Signers,
    canonical,
    decode,
    encode,
    encode_change,
    encode_whole,
    public_bytes,
    signing_key,
    verify,
)
from regions.row_fields import RowRefused

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["NEVER", "Change", "Heard", "Part", "RowRefused", "Signers", "Snapshot", "canonical", "decode"]
__all__ += ["encode", "encode_change", "encode_whole", "fold", "public_bytes", "region_body", "rules_body"]
__all__ += ["signing_key", "verify"]

NOT_YET: Final[Mapping[str, Offer]] = MappingProxyType({})
NOTHING: Final[Mapping[str, float]] = MappingProxyType({})
NO_NAMES: Final[frozenset[str]] = frozenset()
MAX_AHEAD_MS: Final = 300_000  # five minutes: what a clock without a time server may be off, and no more
PACE: Final = ("store_bytes_per_s", "host_bytes_per_s", "origin_bytes_per_s", "attach_s", "draining")
SLOW_START_S: Final = 5.0  # a model that has just become resident is known to be so for as long
NEVER: Final = -math.inf  # heard at: a row from disk, not yet heard again from its region


@dataclass(frozen=True, slots=True)
class Heard:
    """A region's last valid row, the last of its lines, and when it was last heard (monotonic s; NEVER from disk).

    `offers` are what its models cost, and `kept` the places that some of them are kept in: worked out once with the
    row, so that no request has to. `whole` are the lines that `line` builds upon; where that is a change, `base` is
    the whole row and `changed` are the models that differ. `fresh` models are resident since then (monotonic s), and
    were not before.
    """

    row: RegionRow
    line: bytes
    at: float
    offers: Mapping[str, Offer] = field(default_factory=lambda: NOT_YET)
    kept: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    fresh: Mapping[str, float] = field(default_factory=lambda: NOTHING)
    whole: tuple[bytes, ...] = ()
    base: RegionRow | None = None
    changed: frozenset[str] = NO_NAMES

    def __post_init__(self) -> None:
        if self.offers is NOT_YET:
            kept = {name: model.residency for name, model in self.row.models.items() if model.residency}
            object.__setattr__(self, "offers", offers(self.row))
            object.__setattr__(self, "kept", MappingProxyType(kept))

    def lines(self) -> tuple[bytes, ...]:
        """All that the row is made of, in order."""
        return (*self.whole, self.line)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What an edge knows: the last valid row of each region, and the last valid policy with its line.

    `gathered` are parts of rows that are not whole yet, with their lines; nothing is chosen by them.
    """

    regions: Mapping[str, Heard] = field(default_factory=lambda: MappingProxyType({}))
    policy: PolicyRow | None = None
    policy_line: bytes = b""
    gathered: Mapping[str, tuple[tuple[Part, bytes], ...]] = field(
        default_factory=lambda: MappingProxyType({})
    )

    def lines(self) -> tuple[bytes, ...]:
        """Every line in force, policy first: what is kept on disk and folded again at the next start."""
        policy = (self.policy_line,) if self.policy_line else ()
        return policy + tuple(line for heard in self.regions.values() for line in heard.lines())


def fold(
    snapshot: Snapshot,
    line: bytes,
    signers: Signers,
    *,
    now: float,
    source: str | None = None,
    wall_ms: float = math.inf,
) -> Snapshot:
    """The snapshot after one line; raises RowRefused, and then the old snapshot stays in force.

    Args:
        snapshot: what is known so far; not changed.
        line: one line of a region's stream or of the disk, without its newline.
        signers: whose signatures count.
        now: monotonic seconds; NEVER for a line from disk.
        source: the region whose stream this is: it may pass on the policy, but speak only for itself.
        wall_ms: since 1970. A row of a later epoch is refused: were it taken, all true ones after it would be older.
    """
    if line == snapshot.policy_line and line:
        return snapshot
    again = None if source is None else snapshot.regions.get(source)
    if again is not None and again.line == line and line:  # said again: signed by it, and taken, before
        return _with(snapshot, replace(again, at=now))
    said = decode(line, signers)
    row = said.row if isinstance(said, Part | Change) else said
    _refuse_future(row, wall_ms)
    if isinstance(row, PolicyRow):
        _refuse_older(row, snapshot.policy)
        return replace(snapshot, policy=row, policy_line=line)
    if source is not None and row.id != source:
        raise RowRefused("wrong_region", f"{source} passed on a row of {row.id}")
    if isinstance(said, Part):
        return _gathered(snapshot, said, line, now)
    known = snapshot.regions.get(row.id)
    if isinstance(said, Change):
        return _with(snapshot, _changed(known, said, line, now))
    return _with(snapshot, _whole(known, row, line, (), now))


def _with(snapshot: Snapshot, heard: Heard) -> Snapshot:
    return replace(snapshot, regions=MappingProxyType({**snapshot.regions, heard.row.id: heard}))


def _refuse_future(row: RegionRow | PolicyRow, wall_ms: float) -> None:
    if row.epoch > wall_ms + MAX_AHEAD_MS:
        ahead_s = (row.epoch - wall_ms) / 1e3
        raise RowRefused("future", f"{row.id} says that it began {ahead_s:.0f} s from now")


def _refuse_older(row: RegionRow | PolicyRow, known: RegionRow | PolicyRow | None) -> None:
    if known is not None and (row.epoch, row.seq) <= (known.epoch, known.seq):
        at, last = f"{row.epoch}.{row.seq}", f"{known.epoch}.{known.seq}"
        raise RowRefused("older", f"row {at} of {row.id} is not newer than {last}")


def _refuse_emptied(row: RegionRow, known: RegionRow | None) -> None:
    """A restarted region speaks only after it has read its pointers; all models gone is a fault."""
    if known is not None and known.models and not row.models and row.epoch != known.epoch:
        raise RowRefused("empty", f"{row.id} restarted without any of its {len(known.models)} models")


# ---- whole rows


def _whole(known: Heard | None, row: RegionRow, line: bytes, before: tuple[bytes, ...], now: float) -> Heard:
    """A row that stands for itself; the same once more is only heard again."""
    if known is None:
        return Heard(row, line, now, whole=before)
    if row == known.row:
        if known.base is None:
            return replace(known, at=now)
        return replace(known, at=now, line=line, whole=before, base=None, changed=NO_NAMES)
    _refuse_older(row, known.row)
    _refuse_emptied(row, known.row)
    heard = Heard(row, line, now, whole=before)
    return replace(heard, fresh=_fresh(known, heard.offers, heard.offers, now))


def _gathered(snapshot: Snapshot, part: Part, line: bytes, now: float) -> Snapshot:
    """With one more part; the last one brings the row into force. The first forgets what was gathered before."""
    row, known = part.row, snapshot.regions.get(part.row.id)
    before = snapshot.gathered.get(row.id, ()) if part.index else ()
    if len(before) != part.index or (before and not _belong(before[0][0], part)):
        raise RowRefused("gap", f"part {part.index} of {part.count} without those before it")
    if known is not None and (row.epoch, row.seq) < (known.row.epoch, known.row.seq):
        _refuse_older(row, known.row)
    parts = (*before, (part, line))
    if len(parts) < part.count:
        return replace(snapshot, gathered=MappingProxyType({**snapshot.gathered, row.id: parts}))
    models = _joined([each.row.models for each, _ in parts])
    lines = tuple(each for _, each in before)
    heard = _whole(known, replace(row, models=models), line, lines, now)
    rest = {name: each for name, each in snapshot.gathered.items() if name != row.id}
    return replace(_with(snapshot, heard), gathered=MappingProxyType(rest))


def _belong(first: Part, part: Part) -> bool:
    """Whether two parts are of one row: all is the same but their models."""
    return first.count == part.count and replace(first.row, models=part.row.models) == part.row


def _joined(pieces: Iterable[Mapping[str, ModelRow]]) -> Mapping[str, ModelRow]:
    models: dict[str, ModelRow] = {}
    num_models = 0
    for each in pieces:
        num_models += len(each)
        models |= each
    if len(models) != num_models or num_models > MAX_MODELS:
        raise RowRefused("bad_value", f"a model twice, or more than {MAX_MODELS} models")
    return MappingProxyType(models)


# ---- changes


def _changed(known: Heard | None, change: Change, line: bytes, now: float) -> Heard:
    """The row that a change makes of the whole one it names. What is as in the last row stays that value."""
    base = None if known is None else known.base or known.row
    row = change.row
    if known is None or base is None or (base.epoch, base.seq) != (row.epoch, change.since):
        raise RowRefused(
            "gap", f"a change since row {row.epoch}.{change.since} of {row.id}, which is not held"
        )
    _refuse_older(row, known.row)
    models, touched = _moved(known, base, change)
    row = replace(row, models=models)
    made = known.offers if _same_pace(row, known.row) else None
    if made is None or touched:
        made = offers_after(made, row, touched) if made is not None else offers(row)
    whole = known.whole if known.base is not None else known.lines()
    kept = known.kept
    if touched:
        kept = MappingProxyType({name: each.residency for name, each in models.items() if each.residency})
    return Heard(
        row,
        line,
        now,
        made,
        kept,
        _fresh(known, made, touched, now),
        whole,
        base,
        frozenset(change.row.models.keys() | change.gone),
    )


def _moved(known: Heard, base: RegionRow, change: Change) -> tuple[Mapping[str, ModelRow], set[str]]:
    """The models after a change, and the names of those that differ from the last row's."""
    if not change.gone <= base.models.keys() or change.gone & change.row.models.keys():
        raise RowRefused("bad_value", "a model is gone that was not there, or that is there")
    last, names = known.row.models, change.row.models.keys() | change.gone
    now: dict[str, ModelRow | None] = {name: base.models.get(name) for name in known.changed - names}
    now |= dict.fromkeys(change.gone)
    now |= change.row.models
    touched = {name for name, model in now.items() if last.get(name) != model}
    if not touched:
        return last, touched
    models = dict(last)
    for name in touched:
        model = now[name]
        if model is None:
            del models[name]
        else:
            models[name] = model
    if len(models) > MAX_MODELS:
        raise RowRefused("bad_value", f"more than {MAX_MODELS} models")
    return MappingProxyType(models), touched


def _same_pace(row: RegionRow, known: RegionRow) -> bool:
    """Whether what all offers of a row have in common is the same."""
    return all(getattr(row, name) == getattr(known, name) for name in PACE)


def _fresh(
    known: Heard, made: Mapping[str, Offer], touched: Iterable[str], now: float
) -> Mapping[str, float]:
    """The models that became resident under this edge's eyes within SLOW_START_S."""
    if known.at == NEVER or (not known.fresh and not touched):
        return NOTHING
    fresh = {
        name: since
        for name, since in known.fresh.items()
        if now - since < SLOW_START_S and name in made and not made[name].ready_ms
    }
    fresh |= {
        name: now for name in touched if name in made and starts_cold(known.offers.get(name), made[name])
    }
    return MappingProxyType(fresh) if fresh else NOTHING
