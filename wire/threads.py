"""A pool of threads that goes on with those it has where the host lets no more begin: a limit of pids, or of memory.

The standard one queues the work, then fails to begin a thread for it and raises. Its caller believes that nothing is
done, and closes what the work was to use; a thread that is there does the work a moment later all the same, on
descriptors that may be another client's by then.
"""

import errno
import logging
from concurrent.futures import ThreadPoolExecutor

log = logging.getLogger("nearfield.wire")


class Threads(ThreadPoolExecutor):
    """At most `most` threads, one of them from the beginning: so whatever is submitted is done."""

    def __init__(self, most: int, name: str) -> None:
        """Raises: OSError if not one thread can begin."""
        super().__init__(most, thread_name_prefix=name)
        self._lacks = False
        self.submit(_nothing)

    def _adjust_thread_count(self) -> None:
        try:
            super()._adjust_thread_count()
        except RuntimeError as error:
            if not self._threads:
                raise OSError(errno.EAGAIN, "the host lets this process begin no thread") from error
            if not self._lacks:
                log.warning("%d threads do the work of %d: %s", len(self._threads), self._max_workers, error)
            self._lacks = True


def _nothing() -> None:
    """What the first thread begins for."""
