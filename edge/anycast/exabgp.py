"""ExaBGP as a gate's speaker: the gate is its process, and what it writes to standard output are commands.

ExaBGP starts the gate (`process` in its configuration, see deploy/packaging/exabgp.conf), and whatever ends the gate
has it started again; its first words are a withdrawal, so no route outlives the gate that wanted it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from edge.anycast.gate import Standing
from edge.anycast.speaker import SpeakerError

if TYPE_CHECKING:
    from collections.abc import Mapping

WORDS: Final[Mapping[Standing, str]] = {
    Standing.ANNOUNCED: "announce route {prefix} next-hop self",
    Standing.DRAINING: "announce route {prefix} next-hop self community [65535:0]",
    Standing.WITHDRAWN: "withdraw route {prefix} next-hop self",
}


class ExaBgp:
    """The ExaBGP that started this process. It never answers; a broken pipe says that it is gone."""

    def __init__(self, prefix: str, pipe: int) -> None:
        self._prefix = prefix
        self._pipe = pipe

    @classmethod
    def parent(cls, prefix: str) -> ExaBgp:
        """Take standard output for commands; whatever else is printed from here on goes to standard error."""
        pipe = os.dup(1)
        os.dup2(2, 1)
        return cls(prefix, pipe)

    async def show(self, standing: Standing) -> None:
        """Write the command: less than a pipe's buffer, so it is whole or not there. Raises SpeakerError."""
        try:
            os.write(self._pipe, (WORDS[standing].format(prefix=self._prefix) + "\n").encode())
        except OSError as error:
            raise SpeakerError(f"ExaBGP does not listen: {error}") from error

    async def shows(self) -> None:
        """It cannot be asked."""

    async def close(self) -> None:
        """Close the pipe."""
        os.close(self._pipe)
