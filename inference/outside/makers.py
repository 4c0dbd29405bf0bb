"""The engines of a node: our own, and those that its operator defined."""

from __future__ import annotations

import itertools
import shutil
from difflib import get_close_matches
from typing import TYPE_CHECKING

from inference.outside.definition import OWN
from inference.outside.engine import OutsideEngine
from inference.workers.board import LoadFailure
from inference.workers.loading import Room
from inference.workers.residency.room import Means, fitting

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from inference.outside.definition import Definition
    from inference.workers.engines.protocols import Load, Maker
    from weights_cache.model.revision import Revision

SLACK_S = 600.0
"""Beside its own start, which has a deadline of its own, a load waits for bytes: as long as a load of ours may."""
MAX_REMEMBERED = 64
"""Revisions whose last start is known, for the estimate of the next one."""


class OutsideMaker:
    """Starts engines of one definition (`workers.engines.protocols.Maker`). `place` is a folder of its own."""

    birth = "spawn"
    backs_off = True

    def __init__(self, made: Definition, place: Path) -> None:
        self.made, self._place = made, place
        self._numbers = itertools.count()
        self._took_s: dict[str, float] = {}

    @property
    def load_deadline_s(self) -> float:
        """See `Maker`."""
        return self.made.start_deadline_s + SLACK_S

    def room(self, revision: Revision, means: Means) -> Room:
        """See `Maker`: the weights, as its folder holds them, and what the operator says it takes beside them."""
        num_bytes = revision.facts.weight_bytes + self.made.memory_bytes
        return fitting(revision, means, Room(num_bytes, 0, self.made.max_requests, means.num_threads))

    async def start(self, load: Load) -> OutsideEngine:
        """See `Maker`."""
        place = self._place / f"{load.revision.id[:12]}-{next(self._numbers)}"
        while len(self._took_s) > MAX_REMEMBERED:
            del self._took_s[next(iter(self._took_s))]
        return OutsideEngine(self.made, load, place, self._took_s)


class NodeMakers:
    """See `workers.engines.protocols.Makers`. What an earlier node left in `place` is removed."""

    def __init__(self, own: Maker, definitions: Mapping[str, Definition], place: Path) -> None:
        for each in place.glob("*/*/model"):
            each.chmod(0o700)  # its folder of weights is not for writing
        shutil.rmtree(place, ignore_errors=True)
        self._makers: dict[str | None, Maker] = {None: own, OWN: own}
        self._makers |= {
            name: OutsideMaker(made, place / str(number))
            for number, (name, made) in enumerate(definitions.items())
        }

    def of(self, revision: Revision) -> Maker:
        """See `Makers`."""
        maker = self._makers.get(revision.spec.engine)
        if maker is None:
            raise LoadFailure(*unknown_engine(str(revision.spec.engine), self.names))
        return maker

    @property
    def names(self) -> tuple[str, ...]:
        """The operator's engines."""
        return tuple(name for name in self._makers if name not in {None, OWN} and name is not None)


def unknown_engine(name: str, names: Iterable[str]) -> tuple[str, str, str]:
    """(code, message, next step) for an engine that nobody defined."""
    known = (OWN, *names)
    close = get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    message = f"the engine {name!r} is not one of this host: {', '.join(known)}"
    return (
        "unknown_engine",
        message,
        f"{hint}the operator defines it as [engines.{name}] in the host's nearfield.toml",
    )
