"""Who has a slot, in the order of admission, with room for what each computes next. Plain Python."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inference.engine.steps.tenants import RANK

if TYPE_CHECKING:
    from collections.abc import Iterable

    from inference.engine.steps.rows import Row
    from inference.engine.steps.slots import SlotPool

GROWTH_TOKENS = 256
"""Room that a row gets beyond what it needs now, where rooms grow: it seldom has to ask for more."""
AHEAD_TOKENS = 1
"""Beyond its tokens a row needs one place: a device begins the step behind this one before it is planned."""


class Seats:
    """The slots of one engine, and the rows in them."""

    def __init__(self, pool: SlotPool) -> None:
        self._pool = pool
        self.rows: list[Row] = []

    @property
    def num_free(self) -> int:
        """Slots that nobody has."""
        return self._pool.num_free

    @property
    def grows(self) -> bool:
        """Whether rows may have to ask for more room."""
        return self._pool.grows

    def num_fitting(self, rows: Iterable[Row]) -> int:
        """How many of the first rows have room now; nobody goes before one who has none yet."""
        return self._pool.num_fitting(row.room_tokens(GROWTH_TOKENS) for row in rows)

    def take(self, row: Row, now: float) -> bool:
        """Its slot, if there is room."""
        slot = self._pool.take(row.room_tokens(GROWTH_TOKENS))
        if slot is None:
            return False
        row.admit(slot, now)
        self.rows.append(row)
        return True

    def give(self, row: Row) -> None:
        """Its slot is free."""
        self.rows.remove(row)
        self._pool.give(row.slot)

    def has_room(self, row: Row) -> bool:
        """Room for its next token and the one behind it. Asks for more than it needs, so that it seldom asks."""
        needed, wished = row.room_tokens(AHEAD_TOKENS), row.room_tokens(GROWTH_TOKENS)
        if self._pool.has_room(row.slot, needed):
            return True
        return self._pool.grow(row.slot, wished) or self._pool.grow(row.slot, needed)

    def has_room_beyond(self, row: Row, num_tokens: int) -> bool:
        """Whether so many more than its tokens fit where it is."""
        return self._pool.has_room(row.slot, len(row.tokens) + num_tokens)

    def last(self, tenant: str | None = None) -> Row:
        """The least urgent of a tenant's rows, or of all."""
        return max((row for row in self.rows if tenant is None or row.order.tenant == tenant), key=RANK)

    def check(self) -> None:
        """The invariants. Raises RuntimeError: a slot is leaked or shared."""
        held, num_slots = {row.slot for row in self.rows}, self._pool.num_slots
        if len(held) != len(self.rows) or len(held) + self.num_free != num_slots:
            raise RuntimeError(f"slots held {sorted(held)}, free {self.num_free} of {num_slots}")
        self._pool.check()
