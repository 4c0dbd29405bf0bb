"""What a JSON schema costs each token at sixteen streams, in turns with streams that are free."""

import argparse
import base64
import json
import os
from collections.abc import Mapping

from bench.engines.client import Engine
from bench.rows import Row, compare, middle

STREAMS, PROMPT, TOKENS = 16, 64, 48
WORDS = 512
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "sizes": {"type": "array", "items": {"type": "integer"}},
    },
    "required": ["name", "tags", "sizes"],
    "additionalProperties": False,
}
GRAMMAR = f"start: %json {json.dumps(SCHEMA)}"


def pieces() -> str:
    """A vocabulary of 512: every byte but the last, then pairs of letters; as the link says it."""
    letters = "etaoinshrdlucmfw"
    pairs = [(one + other).encode() for one in letters for other in letters]
    words = [*(bytes([number]) for number in range(255)), *pairs, b""][:WORDS]
    return base64.b64encode(b"".join(len(word).to_bytes(2, "big") + word for word in words)).decode()


def schema_rows(model: str, options: argparse.Namespace) -> list[Row]:
    """The time of a token under the schema against one without."""
    threads = len(os.sched_getaffinity(0))
    room = {"slots": STREAMS, "max_len": 256, "pages": 0}
    with Engine(model=model, threads=threads, eos_ids=[WORDS - 1], **room) as engine:
        engine.tell({"op": "vocabulary", "pieces": pieces(), "special": [WORDS - 1]})
        rounds = [
            (_step_ms(engine, turn, {"grammar": GRAMMAR}), _step_ms(engine, turn, {}))
            for turn in range(3 * options.runs + 1)
        ]
    what = f"a step of {STREAMS} streams, each under a JSON schema, against free ones, tiny model"
    return [compare(what, *middle(rounds[1:]), "ms", better="lower", target=1 / 1.05)]


def _step_ms(engine: Engine, turn: int, fields: Mapping[str, str]) -> float:
    """From when all streams run until the first of them ends, at temperature 1; no two are of one length."""
    prompts = [
        [2 + (7 * place + 31 * turn + row) % 250 for place in range(PROMPT + row)] for row in range(STREAMS)
    ]
    names = [
        engine.start(prompt, TOKENS, temperature=1, seed=row, ignore_eos=not fields, **fields)
        for row, prompt in enumerate(prompts)
    ]
    moments = engine.finish(*names)
    begun, ended = max(times[0] for times in moments.values()), min(times[-1] for times in moments.values())
    inside = [[at for at in times if begun <= at <= ended] for times in moments.values()]
    spans = [(times[-1] - times[0], len(times) - 1) for times in inside if len(times) > 1]
    return 1000 * sum(span for span, _ in spans) / sum(count for _, count in spans)
