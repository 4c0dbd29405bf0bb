"""A refusal in the words of the route that was asked: what the chat path calls `messages` is `input` to Responses.

Routes that are translations are refused by the chat path, which knows its own names only. A client is told the name
that it wrote itself.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Names = Sequence[tuple[str, str]]
    """(pattern of the chat path's whole name, the route's own); the first that fits decides."""


def reworded(refusal: Refusal, names: Names) -> Refusal:
    """The same refusal with the route's own name of the parameter, in its message too."""
    theirs = refusal.param
    ours = None if theirs is None else _renamed(theirs, names)
    if theirs is None or ours is None or ours == theirs:
        return refusal
    message = refusal.message.replace(f"{theirs!r}", f"{ours!r}")
    return Refusal(refusal.status, refusal.code, message, refusal.kind, ours, refusal.retry_after_s)


@contextmanager
def wording(names: Names) -> Iterator[None]:
    """Refusals that are raised inside come out reworded."""
    try:
        yield
    except Refusal as refusal:
        raise reworded(refusal, names) from refusal.__cause__


def _renamed(param: str, names: Names) -> str | None:
    for pattern, ours in names:
        if (found := re.fullmatch(pattern, param)) is not None:
            return found.expand(ours)
    return None
