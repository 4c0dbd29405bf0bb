"""The child that tries grammars: a request's own program, compiled first where it can hurt nobody.

`python -m inference.api.grammar.trial_child --cpu-ms 500` answers {"grammar"} with {} or {"error"}. A grammar that
passes is compiled again by the engine, under the same limits of size. Imports: llguidance and the standard library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llguidance import LLMatcher, LLParserLimits

from inference.api.killable.loop import run
from inference.grammar_limits import LIMITS

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_WHY_CHARS = 400
"""Of an error message: it quotes the grammar."""


class Trier:
    """Compiles and says what is wrong. `arm` sets the processor time of what comes next."""

    def __init__(self, arm: Callable[[], None]) -> None:
        self._arm = arm
        self._limits = LLParserLimits(**LIMITS)

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """{} for a grammar that can be followed, else {"error"}."""
        self._arm()
        grammar = str(message["grammar"])
        is_bad, said = LLMatcher.validate_grammar_with_warnings(grammar, limits=self._limits)
        return {"error": "; ".join(said)[:MAX_WHY_CHARS]} if is_bad else {}


if __name__ == "__main__":
    run("Tries grammars for one node; speaks frames, not text.", Trier, {"grammar": 'start: "a"'})
