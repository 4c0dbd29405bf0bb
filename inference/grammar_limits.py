"""How large a grammar may be: one table for the child that tries it and the engine that follows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

LIMITS: Final[Mapping[str, Any]] = {
    "max_grammar_size": 200_000,
    "initial_lexer_fuel": 500_000,
    "step_lexer_fuel": 100_000,
    "step_max_items": 50_000,
    "max_items_in_row": 2_000,
    "max_lexer_states": 50_000,
}
"""llguidance's own limits (`LLParserLimits`), at or under its defaults: a mask that would cost more than about
20 ms of the engine's step ends its own request instead."""
