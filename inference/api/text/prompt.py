"""Prompts as token ids."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference.workers.entry.resident import Resident

THREAD_CHARS = 4096
"""Longer texts are tokenized in a thread: about a millisecond of the loop's time."""


async def encode(model: Resident, text: str, *, add_special: bool) -> list[int]:
    """The text's token ids; a long text is cut in a thread."""
    cut = model.text.vocabulary.encode
    if len(text) > THREAD_CHARS:
        return await asyncio.to_thread(cut, text, add_special=add_special)
    return cut(text, add_special=add_special)


def check_prompt(tokens: Sequence[int], param: str) -> None:
    """Refuse a prompt without tokens. Raises Refusal (400)."""
    if not tokens:
        raise Refusal(
            400, "invalid_value", f"{param!r} is empty: the model needs at least one token.", param=param
        )
