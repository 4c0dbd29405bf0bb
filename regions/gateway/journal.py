"""What is said of a region's rows: a whole one now and then, and between them what differs from it. Pure.

A change is to the last whole row, not to the last change: whoever misses one needs only the next, and what an edge
keeps is the whole row and one line. Once the models that were said again for nothing are as many as the row has, a
whole row is said, so that all that is said is never more than about twice what must be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from regions.rows import RowRefused, encode_change, encode_whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from regions.map.region import ModelRow, RegionRow


class Journal:
    """`row` is the last that was said: by the lines of `whole`, and by `change` if that is not empty."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self.row: RegionRow | None = None
        self.whole: tuple[bytes, ...] = ()
        self.change = b""
        self._key = key
        self._base: RegionRow | None = None
        self._num_again = 0  # models that were said again since, though they had not moved

    def say(self, row: RegionRow) -> None:
        """Take a newer row. Raises RowRefused where it cannot be said; the last one then stays."""
        if not self._say_change(row):
            self.whole, self.change = encode_whole(row, self._key), b""
            self._base, self._num_again = row, 0
        self.row = row

    def after(self, seq: int) -> tuple[bytes, ...]:
        """The lines that whoever has row `seq` lacks; 0 for nobody's."""
        whole = self.whole if self._base is None or seq < self._base.seq else ()
        return (*whole, self.change) if self.change else whole

    def _say_change(self, row: RegionRow) -> bool:
        """Whether a change is worth saying, and is said."""
        base, last = self._base, self.row
        if base is None or last is None or base.epoch != row.epoch:
            return False
        changed = differing(row.models, base.models)
        self._num_again += sum(row.models.get(name) == last.models.get(name) for name in changed)
        if 2 * len(changed) > len(row.models) or self._num_again > len(row.models):
            return False
        try:
            self.change = encode_change(row, base, changed, self._key)
        except RowRefused:  # too long for one line
            return False
        return True


def differing(now: Mapping[str, ModelRow], base: Mapping[str, ModelRow]) -> set[str]:
    """The names of models that are not the same in both."""
    moved = {name for name, model in now.items() if base.get(name) is not model and base.get(name) != model}
    return moved | (base.keys() - now.keys())
