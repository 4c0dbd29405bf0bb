"""Attention functions of ours where transformers' own model classes find them: by name.

A class calls `attend(module, query, key, value, mask, *, scaling, sliding_window, softcap, s_aux, ...)` in each layer;
`SlotAttention.attend` says what each is. It makes no mask for a function that no mask was registered for.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from transformers import AttentionInterface

if TYPE_CHECKING:
    from collections.abc import Callable

_numbers = itertools.count()


def registered(kind: str, attend: Callable[..., Any]) -> str:
    """A name for `attend` that no other has: engines of one process do not share their slots."""
    name = f"nearfield_{kind}_{next(_numbers)}"
    AttentionInterface.register(name, attend)
    return name
