"""The first request of an external engine, before anybody's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inference.outside.answers import refusal_of
from inference.outside.kinds import CHAT, COMPLETIONS, EMBEDDINGS
from inference.workers.board import LoadFailure
from wire.dial import DialError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inference.outside.definition import Definition
    from inference.outside.door import Door
    from weights_cache.model.revision import Revision

LOG_HAS_MORE = "the node's log has its last lines"
_FIRST: Mapping[str, dict[str, Any]] = {
    COMPLETIONS: {"prompt": "a", "max_tokens": 1, "temperature": 0},
    CHAT: {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1, "temperature": 0},
    EMBEDDINGS: {"input": "a"},
}


async def first_request(door: Door, made: Definition, revision: Revision) -> bool:
    """One token, so that ready means that it answers and the first user does not pay for what is made lazily.

    False: this engine is not to be asked. Raises LoadFailure.
    """
    path = EMBEDDINGS if revision.facts.kind == "embed" else made.warm
    if not made.warm or path not in _FIRST:
        return False
    value = _FIRST[path] | {"model": door.served}
    try:
        answer = await door.post(path, value, made.start_deadline_s)
        async with answer:
            body = await answer.read(made.max_answer_bytes, made.start_deadline_s)
    except DialError as cause:
        raise _failed(made, str(cause)) from cause
    if answer.head.status != 200:
        raise _failed(made, refusal_of(answer.head.status, body, revision.model, door.folder).message)
    return True


def _failed(made: Definition, why: str) -> LoadFailure:
    return LoadFailure("engine_failed", f"{made.name}: its first request: {why}", LOG_HAS_MORE)
