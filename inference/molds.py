"""The molds of a shell (`engine.attach.mold`): which revisions an engine can be forked of with its model made.

Making one runs transformers' code on a model's config, which a shell never does by itself: what hangs, dies or starts a
thread would take every engine of the node with it. So a throw-away child makes it first, with a deadline, and only what
ended well there, with one thread, is made here, from the same state by the same code. No torch in this file.
"""

from __future__ import annotations

import gc
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from inference.engine.attach.mold import Mold
    from inference.link import Message
    from inference.spec import EngineSpec


@dataclass(frozen=True, slots=True)
class Trial:
    """A mold that a child is making to see how it ends. `key` is the node's name for it."""

    key: str
    spec: EngineSpec


class MoldShelf:
    """Kept by name. The node says which to make, and which to let go."""

    def __init__(self) -> None:
        self._molds: dict[str, Mold] = {}
        self._trials: dict[int, Trial] = {}

    def find(self, key: object) -> Mold | None:
        """The mold of that name."""
        return self._molds.get(key) if isinstance(key, str) else None

    def tried(self, pid: int, trial: Trial) -> None:
        """This child is at it."""
        self._trials[pid] = trial

    def ended(self, pid: int, status: int) -> Message | None:
        """A child ended; what to tell the node if it was a trial. After a good one the mold is here."""
        trial = self._trials.pop(pid, None)
        if trial is None:
            return None
        if status:
            return {"op": "not_molded", "key": trial.key, "status": status}
        started = time.perf_counter()
        try:
            self._molds[trial.key] = _cast(trial.spec)
        except (
            OSError,
            MemoryError,
        ):  # what the child found room for: the shell, and its engines, go on without
            return {"op": "not_molded", "key": trial.key, "status": status}
        gc.freeze()  # as all that children share: their collector is not to touch it
        return {"op": "molded", "key": trial.key, "ms": round((time.perf_counter() - started) * 1000, 3)}

    def drop(self, key: object) -> None:
        """Let it go, if it is here."""
        if isinstance(key, str) and (mold := self._molds.pop(key, None)) is not None:
            mold.close()


def be_trial(spec: EngineSpec, num_threads: Callable[[], int]) -> None:
    """What the child does. Does not return if the shell is not to do the same."""
    _cast(spec)
    if num_threads() != 1:
        sys.exit(1)


def _cast(spec: EngineSpec) -> Mold:
    from inference.engine.attach.mold import Mold  # noqa: PLC0415 - imported already, by the zygote

    mold = Mold.cast(spec)
    if mold is None:
        sys.exit(1)
    return mold
