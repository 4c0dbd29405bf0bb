"""What the description of one kept entry says, and its bytes. Pure."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from weights_cache.model.plan import Layout
from weights_cache.model.revision import MAX_EXTENT_BYTES, MAX_EXTENTS, MODEL_NAME, Revision, canonical_json
from weights_cache.model.strict import StrictError, fields, hexadecimal, integer, one_of, parse, text

SCHEMA = "nearfield.entry/2"
MAX_ENTRY_BYTES = 16 << 20  # 131,072 extents at ~100 bytes each


class BadEntryError(ValueError):
    """These bytes are not the description of an entry; the message says where."""


@dataclass(frozen=True)
class EntryFile:
    """`num_bytes` is the landing's, `small_bytes` what the other files have; `extents` are (place, length, BLAKE3)."""

    model: str
    num_bytes: int
    small_bytes: int
    extents: tuple[tuple[int, int, str], ...]

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights in it."""
        return sum(length for _, length, _ in self.extents)

    def place_of(self, digest: str, length: int) -> int | None:
        """Where the extent of these bytes lies; None if it is not one of this entry's."""
        found = self._by_digest.get(digest)
        return found[0] if found is not None and found[1] == length else None

    @cached_property
    def _by_digest(self) -> dict[str, tuple[int, int]]:
        return {digest: (place, length) for place, length, digest in self.extents}

    def to_bytes(self) -> bytes:
        """As it is written."""
        extents = [list(each) for each in self.extents]
        value = {
            "schema": SCHEMA,
            "model": self.model,
            "bytes": self.num_bytes,
            "small": self.small_bytes,
            "extents": extents,
        }
        return canonical_json(value)


def described(revision: Revision, places: Layout) -> EntryFile:
    """What the entry of a revision is, landed so that nothing of it is mapped from elsewhere."""
    found = tuple((places.place(extent), extent.length, extent.blake3) for extent in revision.extents)
    small_bytes = sum(entry.size for entry in revision.small_files)
    return EntryFile(revision.model, places.fresh_bytes, small_bytes, found)


def parsed(data: bytes) -> EntryFile:
    """The description in these bytes. Raises BadEntryError."""
    try:
        found = fields(parse(data, MAX_ENTRY_BYTES), _ENTRY, "entry")
    except StrictError as error:
        raise BadEntryError(str(error)) from error
    return EntryFile(found["model"], found["bytes"], found["small"], found["extents"])


def _extents(value: object, where: str) -> tuple[tuple[int, int, str], ...]:
    if not isinstance(value, list) or len(value) > MAX_EXTENTS:
        raise StrictError(f"{where} is not a list of at most {MAX_EXTENTS} extents")
    return tuple(_extent(each, where) for each in value)


def _extent(value: Any, where: str) -> tuple[int, int, str]:
    if not isinstance(value, list) or len(value) != 3:
        raise StrictError(f"{where} has an extent that is not a place, a length and a BLAKE3")
    return _place(value[0], where), _length(value[1], where), _digest(value[2], where)


_place, _length, _digest = integer(), integer(1, MAX_EXTENT_BYTES), hexadecimal(64)
_ENTRY = {
    "schema": one_of(SCHEMA),
    "model": text(160, MODEL_NAME),
    "bytes": integer(),
    "small": integer(),
    "extents": _extents,
}
