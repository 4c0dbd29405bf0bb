"""What an exchange needs of the connection it came by."""

from collections.abc import Callable, Sequence
from typing import Protocol

from wire.lanes.lane import Lane, LaneLine
from wire.listener.endings import Cause


class Disconnected(ConnectionError):
    """The client is gone (or was cut off): nothing can be written to it any more."""


class Line(LaneLine, Protocol):
    """What an exchange needs of its connection."""

    def send(self, *parts: bytes | memoryview) -> None:
        """Queue bytes for the peer, in order, without copying large ones."""

    async def drained(self) -> None:
        """Return once the peer has taken enough. Raises Disconnected."""

    async def send_file(self, fd: int, offset: int, count: int) -> None:
        """Send bytes of a file after all queued ones. Raises Disconnected, or OSError for the file."""

    async def send_descriptors(self, data: bytes, fds: Sequence[int]) -> None:
        """Send bytes with open files beside them, after all queued ones. Raises Disconnected, OSError."""

    @property
    def carries_descriptors(self) -> bool:
        """True if the peer is a process of this host that `send_descriptors` reaches."""

    def at_end(self, act: Callable[[], None]) -> None:
        """Call `act` once the connection is over, however it ends; at once if it is."""

    def raw_head(self) -> bytes:
        """The head of the message that came whole just now, as it came; empty for any other."""

    def leave(self, lane: Lane) -> None:
        """Offer later messages to `lane` first."""

    def body_taken(self, num_bytes: int) -> None:
        """The handler took body bytes: more may be read from the peer."""

    @property
    def peer_is_ahead(self) -> bool:
        """True if the peer is made to wait for the handler, and `lend` may be called."""

    def lend(self) -> tuple[int, int]:
        """A descriptor to read the body's rest from, the caller's to close; how many bytes that is. Raises OSError."""

    def take_back(self, num_bytes: int) -> None:
        """(After `lend`) so many of them were read."""

    def cut(self, cause: Cause = Cause.ANSWER_BROKE) -> None:
        """Reset the connection at once."""
