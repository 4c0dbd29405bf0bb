"""What a load may find on its host before it asks the store: its own bytes of an earlier life, and others' equal ones.

Both are only ever a gain: whatever they give is checked like bytes from the store, and what is wrong is fetched.
"""

from typing import Protocol

from weights_cache.model.coverage import Extent


class Keep(Protocol):
    """The bytes of one revision that lie in its landing's memory already, because an earlier load put them there."""

    def has(self, number: int) -> bool:
        """Whether extent `number` was landed before, for all that is written down."""
        ...

    def bring(self, place: int, length: int) -> bool:
        """Have these bytes of the landing in memory, to be looked at; False if they cannot be read."""
        ...

    def note(self, number: int) -> None:
        """Write down that extent `number` has landed and was checked."""
        ...


class NoKeep:
    """A landing whose memory is new."""

    def has(self, number: int) -> bool:
        """Nothing is here."""
        del number
        return False

    def bring(self, place: int, length: int) -> bool:
        """Nothing to bring."""
        del place, length
        return False

    def note(self, number: int) -> None:
        """Nobody asks later."""
        del number


class Elsewhere(Protocol):
    """Other landings of this host, which may have some of the same bytes."""

    def copy(self, extent: Extent, view: memoryview) -> bool:
        """Copy an extent's bytes from there into the view; False if no one has them. To be checked."""
        ...

    def digests(self) -> frozenset[str]:
        """BLAKE3 of every extent that has landed there by now."""
        ...


class Nowhere:
    """There is no other landing."""

    def copy(self, extent: Extent, view: memoryview) -> bool:
        """No one has them."""
        del extent, view
        return False

    def digests(self) -> frozenset[str]:
        """None."""
        return frozenset()
