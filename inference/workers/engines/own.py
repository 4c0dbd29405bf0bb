"""Our own engine, forked from the shell for one revision."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Any

from inference.api.text.template import json_file
from inference.devices import CPU
from inference.spec import mold_key
from inference.workers.board import LoadFailure
from inference.workers.engines.process import EngineProcess
from inference.workers.residency.room import Means, own_room
from inference.workers.shell.link import ShellError, ShellLost
from inference.workers.shell.molds import MOST_MOLDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from inference.link import Message
    from inference.usage.node_usage import NodeUsage
    from inference.workers.engines.protocols import Load
    from inference.workers.loading import Room
    from inference.workers.seams import Shell
    from weights_cache.model.revision import Revision

LOAD_DEADLINE_S = 600.0
"""Until an engine is forked: files are read by then, and room is made. From there on it is looked at (`vigil`)."""

MOST_VALUES = MOST_MOLDS
"""Of revisions that were started last; one of a large model takes a megabyte."""


class OwnMaker:
    """Forks engines of ours (`engines.Maker`)."""

    birth = "fork"
    load_deadline_s = LOAD_DEADLINE_S
    backs_off = False  # the next one is there in milliseconds

    def __init__(self, shell: Shell, usage: NodeUsage, device: str = CPU) -> None:
        self._shell, self._usage, self._device = shell, usage, device
        self._values: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def room(self, revision: Revision, means: Means) -> Room:
        """See `Maker`."""
        return own_room(revision, means, packs=self._device == CPU)

    async def start(self, load: Load) -> EngineProcess:
        """See `Maker`. Whose shell is lost under the fork asks the next one, once: it had no part in it."""
        try:
            try:
                return await self._forked(load)
            except ShellLost:
                return await self._forked(load)
        except (ShellError, OSError) as cause:
            message = f"no engine could be forked: {cause}"
            raise LoadFailure("fork_failed", message, "it is tried again") from cause

    async def _forked(self, load: Load) -> EngineProcess:
        usage = self._usage.engine()
        spec = self._spec(load)
        key = mold_key(load.revision.id, spec)

        hear = _MoldedOnceReady(load.hear, partial(self._shell.mold_soon, spec, key))
        own = spec | {"usage_log": str(usage.path)}
        engine = await EngineProcess.fork(self._shell, own, load.landing, hear, usage, key)
        engine.calls.on_any = load.alive
        return engine

    def _value(self, revision: Revision) -> dict[str, Any]:
        """As it travels: made once, since one of 300 tensors takes 0.4 ms of a start."""
        value = self._values.get(revision.id) or revision.as_value()
        self._values[revision.id] = value
        self._values.move_to_end(revision.id)
        if len(self._values) > MOST_VALUES:
            self._values.popitem(last=False)
        return value

    def _spec(self, load: Load) -> dict[str, Any]:
        guessed = load.revision.spec.num_speculative_tokens
        return ({} if guessed is None else {"num_speculative_tokens": guessed}) | {
            "revision": self._value(load.revision),
            "config": json_file(load.files, "config.json"),
            "dtype": load.revision.spec.dtype,
            "quantize": load.revision.spec.quantize,
            "deterministic": load.revision.spec.deterministic or False,
            "max_slots": load.room.max_slots,
            "max_len": load.revision.facts.context_tokens,
            "num_threads": load.room.num_threads,
            "kv_budget_bytes": max(1, load.room.kv_bytes),
            "packed_bytes": load.room.packed_bytes,
            "device": self._device,
            "mapped": [(each.file, each.data_at) for each in load.landing.mapped],
        }


class _MoldedOnceReady:
    """Hears an engine for its worker, and has the next of its kind made ahead. Holds nothing of the load."""

    def __init__(self, hear: Callable[[Message], None], mold_soon: Callable[[], None]) -> None:
        self._hear, self._mold_soon = hear, mold_soon

    def __call__(self, message: Message) -> None:
        self._hear(message)
        if message.get("op") == "ready" and message.get("castable"):
            self._mold_soon()
