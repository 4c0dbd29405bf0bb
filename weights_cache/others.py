"""What other revisions of this host have of the bytes of a load: in memory or in the folder, found by their BLAKE3."""

from collections.abc import Callable, Mapping

from weights_cache.kept.folder import CacheFolder
from weights_cache.model.coverage import Extent
from weights_cache.seat import Seat


class Others:
    """Every revision but `revision_id` (a `keep.Elsewhere`); `seats` gives those that are loaded or loading."""

    def __init__(
        self, revision_id: str, seats: Callable[[], Mapping[str, Seat]], folder: CacheFolder | None
    ) -> None:
        self._revision_id, self._seats, self._folder = revision_id, seats, folder

    def copy(self, extent: Extent, view: memoryview) -> bool:
        """See `Elsewhere`."""
        seats = self._seats()
        others = (seat.flight for name, seat in seats.items() if name != self._revision_id)
        if any(flight.copy_to(extent.blake3, view) for flight in others):
            return True
        folder = self._folder
        return folder is not None and folder.copy_to(extent.blake3, view, {self._revision_id, *seats})

    def digests(self) -> frozenset[str]:
        """See `Elsewhere`."""
        seats = self._seats()
        found = set[str]()
        for name, seat in seats.items():
            found |= seat.flight.landed_digests() if name != self._revision_id else set()
        if self._folder is not None:
            found |= self._folder.landed_digests({self._revision_id, *seats})
        return frozenset(found)
