"""Which parameters a request to an external engine may have: those that our own API knows, and the operator's extras.

Servers take what they do not know in silence, a slip of the pen included. What our API knows is passed on, also what
our own engine refuses; anything else must be named by the operator (`extra`), who knows what the server makes of it.
So must what would be kept from one request to the next: a server has no tenants, and would give it to whoever asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inference.api.anthropic.request import MESSAGE_FIELDS, check_unthreaded
from inference.api.request.kinds import CHAT_FIELDS, COMPLETION_FIELDS, EMBEDDING_FIELDS
from inference.api.responses.request import RESPONSE_FIELDS
from inference.outside.kinds import CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES, RESPONSES
from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inference.outside.definition import Definition

KNOWN: Mapping[str, frozenset[str]] = {
    CHAT: CHAT_FIELDS,
    COMPLETIONS: COMPLETION_FIELDS,
    EMBEDDINGS: EMBEDDING_FIELDS,
    RESPONSES: RESPONSE_FIELDS,
    MESSAGES: MESSAGE_FIELDS,
}

KEPT = frozenset({"background", "container", "conversation", "previous_response_id", "prompt", "store"})
"""Of Responses, Messages and chats; a completion's `prompt` is another thing."""


def check_parameters(path: str, body: Mapping[str, Any], made: Definition) -> None:
    """Refuse by name what the engine ignores, as its operator says, and what nobody knows. Raises Refusal (400)."""
    if path == MESSAGES:
        check_unthreaded(body)
    for name, value in body.items():
        if value is None:
            continue
        if name in made.refuse:
            message = f"{name!r} is not supported by the engine {made.name!r}. Leave it out."
            raise Refusal(400, "unsupported_parameter", message, param=name)
        if name in KEPT and value is not False and path != COMPLETIONS and name not in made.extra:
            message = (
                f"{name!r} is not supported: nothing is kept between requests. Send the whole conversation."
            )
            raise Refusal(400, "unsupported_parameter", message, param=name)
        if name not in KNOWN[path] and name not in made.extra:
            message = f"Unknown parameter: {name[:64]!r}. An operator can let it through to {made.name!r} (`extra`)."
            raise Refusal(400, "unknown_parameter", message, param=name[:64])
