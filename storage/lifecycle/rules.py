"""Lifecycle rules: what of a bucket has had its time. Pure; the time is an argument, in ms since 1970.

Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/intro-lifecycle-rules.html
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

DAY_MS = 24 * 3600 * 1000


class Action(Enum):
    """What becomes of a version that is due."""

    EXPIRE = "expire"  # delete the object: for good, or under a marker where there is versioning
    REMOVE = "remove"  # delete this version, or this marker, for good


@dataclass(frozen=True, slots=True)
class Version:
    """A version, or a delete marker, as far as rules look at it.

    `age_from_ms`: when it was written; for one that is no longer current, when its successor was.
    `num_newer`: versions of the key that are not current either, and newer. `alone`: the key has no other version.
    """

    key: str
    size: int
    tags: Mapping[str, str]
    age_from_ms: int
    is_current: bool
    is_marker: bool = False
    num_newer: int = 0
    alone: bool = True


@dataclass(frozen=True, slots=True)
class Filter:
    """Which objects a rule is about: all of it must hold. Sizes are bytes, and exclusive."""

    prefix: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    larger_than: int | None = None
    smaller_than: int | None = None

    @property
    def looks_inside(self) -> bool:
        """True if more than the key counts; such a rule cannot be about markers or unfinished uploads."""
        return bool(self.tags) or self.larger_than is not None or self.smaller_than is not None

    def matches(self, version: Version) -> bool:
        """True if the rule is about it."""
        return (
            version.key.startswith(self.prefix)
            and self.tags.items() <= version.tags.items()
            and (self.larger_than is None or version.size > self.larger_than)
            and (self.smaller_than is None or version.size < self.smaller_than)
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule that is enabled. Each action is None, or False, if the rule does not have it."""

    id: str
    filter: Filter
    expire_days: int | None = None
    expire_at_ms: int | None = None
    expire_lone_markers: bool = False
    noncurrent_days: int | None = None
    num_noncurrent_kept: int = 0
    abort_days: int | None = None

    def due_ms(self, version: Version, day_ms: int = DAY_MS) -> int | None:
        """From when on the rule would take the version away, 0 for always; None for never."""
        if version.is_marker and version.is_current:
            return self._marker_due_ms(version, day_ms)
        if not self.filter.matches(version):
            return None
        if version.is_current:
            return self._current_due_ms(version, day_ms)
        if self.noncurrent_days is None or version.num_newer < self.num_noncurrent_kept:
            return None
        return day_after(version.age_from_ms, self.noncurrent_days, day_ms)

    def _current_due_ms(self, version: Version, day_ms: int) -> int | None:
        if self.expire_days is not None:
            return day_after(version.age_from_ms, self.expire_days, day_ms)
        return self.expire_at_ms

    def _marker_due_ms(self, version: Version, day_ms: int) -> int | None:
        """A marker under which nothing is left goes; one that hides versions stays with them."""
        if not version.alone or self.filter.looks_inside or not version.key.startswith(self.filter.prefix):
            return None
        return 0 if self.expire_lone_markers else self._current_due_ms(version, day_ms)

    def upload_due_ms(self, key: str, created_ms: int, day_ms: int = DAY_MS) -> int | None:
        """From when on the rule would abort an upload that was begun then; None for never."""
        if self.abort_days is None or self.filter.looks_inside or not key.startswith(self.filter.prefix):
            return None
        return day_after(created_ms, self.abort_days, day_ms)


def day_after(from_ms: int, days: int, day_ms: int = DAY_MS) -> int:
    """`days` later, at the midnight (UTC) that follows: S3 rounds up."""
    return -(-(from_ms + days * day_ms) // day_ms) * day_ms


def decide(rules: Iterable[Rule], version: Version, now_ms: int, day_ms: int = DAY_MS) -> Action | None:
    """What is to be done with the version now; None for nothing."""
    dues = [due for rule in rules if (due := rule.due_ms(version, day_ms)) is not None]
    if not dues or now_ms < min(dues):
        return None
    return Action.EXPIRE if version.is_current and not version.is_marker else Action.REMOVE


def is_upload_due(
    rules: Iterable[Rule], key: str, created_ms: int, now_ms: int, day_ms: int = DAY_MS
) -> bool:
    """True if an upload that was begun then is to be aborted now."""
    dues = (rule.upload_due_ms(key, created_ms, day_ms) for rule in rules)
    return any(due is not None and now_ms >= due for due in dues)


def next_expiry(rules: Sequence[Rule], version: Version, day_ms: int = DAY_MS) -> tuple[int, str] | None:
    """When the current version will go, and by which rule's id; None for never."""
    dues = [(due, rule.id) for rule in rules if (due := rule.due_ms(version, day_ms)) is not None]
    return min(dues, default=None)
