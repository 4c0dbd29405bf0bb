"""Which molds one shell holds: engines of a revision made ahead of their start (`inference.engine.attach.mold`)."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator, Mapping

    from inference.link import Message

MOST_MOLDS = 16
"""Of one shell: a model of 40 layers takes some 4 MiB, and whoever was forked of one last keeps it longest."""


class Molds:
    """Their keys, the one used longest ago first; and the trials of those that are being made."""

    def __init__(self) -> None:
        self._keys: OrderedDict[str, None] = OrderedDict()
        self.trials: dict[str, asyncio.Future[bool]] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def order(self, spec: Mapping[str, Any], key: str) -> Message:
        """What asks for an engine. A shell that has the mold has the long parts of its spec."""
        if key not in self._keys:
            return {"op": "fork", "spec": spec}
        self._keys.move_to_end(key)
        rest = {name: value for name, value in spec.items() if name not in {"revision", "config"}}
        return {"op": "fork", "spec": rest, "mold": key}

    def take_oldest(self) -> str | None:
        """The key of the one that is to go before another is made; it is forgotten here. None if there is room."""
        return self._keys.popitem(last=False)[0] if len(self._keys) >= MOST_MOLDS else None

    def tried(self, key: str, *, is_there: bool) -> None:
        """A trial has ended."""
        if is_there:
            self._keys[key] = None
        if (ended := self.trials.get(key)) is not None and not ended.done():
            ended.set_result(is_there)
