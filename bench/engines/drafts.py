"""Decode with drafts and without, in turns: streams that repeat themselves, and streams that do not."""

import argparse
from typing import Any

from bench.engines.client import Engine
from bench.engines.rates import decode_rate, engine_of
from bench.rows import Row, compare, middle
from inference.engine.steps.drafts import MOST_DRAFTS

PROMPT, TOKENS = 32, 64
KINDS: tuple[tuple[int, str, dict[str, Any]], ...] = (
    *((streams, "greedy, which repeats", {}) for streams in (1, 2, 4, 8)),
    *((streams, "at temperature 1, which does not", {"temperature": 1.0}) for streams in (1, 8)),
)
"""Streams, what their text is like with random weights, and the fields of their orders."""


def draft_rows(model: str, options: argparse.Namespace) -> list[Row]:
    """What is gained where text repeats as that of random weights does; others gain by what theirs repeats."""
    with engine_of(model, 8, 512, MOST_DRAFTS) as guessing, engine_of(model, 8, 512) as plain:
        _rates((guessing, plain), 0)  # first touch of every slot
        rounds = [_rates((guessing, plain), 1 + turn) for turn in range(options.runs)]
    name = "tiny model" if model == "tiny" else "244 M Llama"
    return [
        compare(f"tokens a second of {streams} streams {what}, with drafts against without, {name}",
                *middle(list(pairs)), "tok/s", better="higher")
        for (streams, what, _), pairs in zip(KINDS, zip(*rounds, strict=True), strict=True)
    ]  # fmt: skip


def _rates(engines: tuple[Engine, Engine], turn: int) -> list[tuple[float, float]]:
    """Of each kind both engines' rates."""
    found = []
    for number, (streams, _, fields) in enumerate(KINDS):
        first, second = (
            decode_rate(each, streams, PROMPT, TOKENS, 10 * turn + number, **fields) for each in engines
        )
        found.append((first, second))
    return found
