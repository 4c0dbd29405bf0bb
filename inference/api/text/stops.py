"""Stop strings: text in pieces goes in, text that is certainly wanted comes out.

The first stop string to be complete ends the text, the longest if two are complete at once; so where the text
ends depends on its characters only, never on how they were cut into pieces. Text that may be the beginning of a
stop string is held back until it is known.
"""

from __future__ import annotations


class StopGate:
    """Passes text through until a stop string is complete. Once `hit` is set, nothing more comes out."""

    __slots__ = ("_held", "_include", "_reach", "_stops", "hit")

    def __init__(self, stops: tuple[str, ...], *, include: bool = False) -> None:
        self._stops = stops
        self._include = include
        self._reach = max(map(len, stops), default=0) - 1
        self._held = ""
        self.hit: str | None = None
        """The stop string that ended the text."""

    def receive(self, text: str) -> str:
        """The part of what is held and `text` that may be shown now."""
        if self.hit is not None:
            return ""
        if not self._stops:
            return text
        text, self._held = self._held + text, ""
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            end, start, self.hit = min(found)
            return text[: end if self._include else start]
        num_held = self._num_held(text)
        self._held = text[len(text) - num_held :]
        return text[: len(text) - num_held]

    def finish(self) -> str:
        """The text ended by itself: what was held is text after all."""
        text, self._held = self._held, ""
        return text

    def _num_held(self, text: str) -> int:
        """Characters at the end of `text` that begin some stop string, at most."""
        for length in range(min(self._reach, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
