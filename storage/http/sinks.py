"""Where a body comes from, and where it goes."""

from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from typing import Protocol


class Source(Protocol):
    """Where the body comes from: a request, or the file in a form."""

    @property
    def peer_is_ahead(self) -> bool:
        """True if more came than was taken, and `read_ahead` will bring it."""

    async def read_ahead(self, pool: Executor, take: Callable[[memoryview], None]) -> None:
        """While that is so, have `take` called in threads for what comes next. Raises: as `body` and `take` do."""

    def body(self) -> AsyncIterator[bytes]:
        """The pieces as they come. Raises: wire's Refusal and Disconnected, S3Error."""


class Sink(Protocol):
    """Where the payload goes."""

    blob: str
    offset: int

    def write(self, data: bytes | memoryview) -> None:
        """Append. Raises: OSError."""

    def publish(self) -> None:
        """Make it durable. Raises: OSError."""

    def abort(self) -> None:
        """Undo everything, also after `publish`."""


class MemorySink:
    """A small body kept in memory: a document, or an object that goes into the index."""

    offset = 0

    def __init__(self, blob: str = "") -> None:
        self.blob = blob
        self.data = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        """Append."""
        self.data += data

    def publish(self) -> None:
        """Nothing: memory is not durable."""

    def abort(self) -> None:
        """Nothing is left behind."""
