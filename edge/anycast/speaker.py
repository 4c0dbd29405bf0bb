"""What a BGP daemon must be able to do for a gate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from edge.anycast.gate import Standing


class SpeakerError(Exception):
    """The BGP daemon was not reached, or did not do what it was told; it is told again with the next check."""


class Speaker(Protocol):
    """Says a POP's standing to its neighbours."""

    async def show(self, standing: Standing) -> None:
        """Have the neighbours told; returns once the daemon took it. Raises SpeakerError."""

    async def shows(self) -> Standing | None:
        """What the daemon says now, None where it cannot tell. Raises SpeakerError."""

    async def close(self) -> None:
        """Let go of the daemon; what it says stays as it is."""
