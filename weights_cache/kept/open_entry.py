"""One entry of the folder of kept landings, while a load uses it."""

import logging
import os
import weakref

from weights_cache.kept.entry_file import EntryFile
from weights_cache.memory.file_buffer import FileBuffer

log = logging.getLogger("nearfield.weights")


class OpenEntry:
    """An entry as the memory of a load (`buffer`) and what the load knows of it before it begins (`Keep`)."""

    def __init__(self, buffer: FileBuffer, landed_fd: int, file: EntryFile) -> None:
        """Takes the descriptor of its list over."""
        self.buffer, self._landed_fd = buffer, landed_fd
        weakref.finalize(self, os.close, landed_fd)
        self._landed = os.pread(self._landed_fd, len(file.extents), 0)
        self.is_whole = all(self._landed)

    def has(self, number: int) -> bool:
        """See `Keep`."""
        return self._landed[number] == 1

    def bring(self, place: int, length: int) -> bool:
        """See `Keep`."""
        return self.buffer.bring(place, length)

    def note(self, number: int) -> None:
        """See `Keep`."""
        if self.has(number):
            return  # it is written down
        try:
            os.pwrite(self._landed_fd, b"\1", number)
        except OSError as error:
            log.warning("what landed could not be written down, so a restart reads it again: %s", error)
