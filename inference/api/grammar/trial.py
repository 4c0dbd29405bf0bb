"""Grammars of requests are tried before an engine sees them: in a child that can be killed, once for each text."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from hashlib import sha256

from inference.api.killable.child import KillableChild
from wire.refused.refusal import Refusal

BAD_GRAMMAR = "bad_grammar"
TRY_CPU_MS = 500.0
"""Processor time of one try; schemas of real clients take 1 to 20 ms, the largest allowed about 300 (measured)."""
MAX_KNOWN = 4_096
"""Digests of grammars that passed."""


def unusable(why: str, param: str) -> Refusal:
    """The 400 for a structure that no answer can be held to."""
    return Refusal(400, BAD_GRAMMAR, f"No answer can be held to {param!r}: {why}", param=param)


class GrammarChild(KillableChild):
    """Tries grammars. The child starts with the first one."""

    def __init__(self, cpu_ms: float = TRY_CPU_MS) -> None:
        super().__init__("inference.api.grammar.trial_child", cpu_ms, _costly)
        self._known: OrderedDict[bytes, None] = OrderedDict()

    async def check(self, grammar: str, param: str) -> None:
        """Return for a grammar that an engine can follow.

        Raises:
            Refusal: 400 naming `param`, with the reason.
        """
        digest = sha256(grammar.encode()).digest()
        if digest not in self._known:
            await asyncio.shield(
                self._trying(grammar, param)
            )  # who goes away must leave no half exchange behind
            self._known[digest] = None
        self._known.move_to_end(digest)
        while len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)

    def _trying(self, grammar: str, param: str) -> asyncio.Task[None]:
        task = asyncio.create_task(self._try(grammar, param))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def _try(self, grammar: str, param: str) -> None:
        try:
            async with self._turn:
                answer = await self._ask({"grammar": grammar})
        except Refusal as cost:
            if cost.status == 400:
                raise unusable(cost.message, param) from cost
            raise
        if "error" in answer:
            raise unusable(str(answer["error"]), param)


def _costly(why: str) -> Refusal:
    return Refusal(400, BAD_GRAMMAR, why)
