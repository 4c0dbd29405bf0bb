"""Where the extents of one load land: their places in its buffer, whose pages are made present as they are needed."""

import time
from collections.abc import Sequence

from weights_cache.load.sources import Work
from weights_cache.memory.buffers import Buffer, HostMemoryError
from weights_cache.memory.view import LandingError
from weights_cache.model.plan import Layout
from weights_cache.model.revision import Extent


class Ground:
    """One thread at a time asks for the same extent; otherwise any thread may call anything."""

    def __init__(self, buffer: Buffer, places: Layout, extents: Sequence[Extent], work: Work) -> None:
        self._buffer, self._places, self._extents, self._work = buffer, places, extents, work
        self._populated = bytearray(len(extents))

    def memory(self, number: int) -> memoryview:
        """Where an extent lands, its pages there. Raises LandingError."""
        extent, started = self._extents[number], time.monotonic()
        place = self._places.place(extent)
        if not self._populated[number]:
            try:
                self._buffer.populate(place, extent.length)
            except HostMemoryError as error:
                raise LandingError("host_memory_full", error.strerror or str(error)) from error
            self._populated[number] = 1
            self._work.spend("allocate", started)
        return self.view(place, extent.length)

    def view(self, place: int, length: int) -> memoryview:
        """The landing as it is."""
        return self._buffer.view()[place : place + length]
