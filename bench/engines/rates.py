"""An engine for a benchmark, prompts for it, and how many tokens a second its streams give."""

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from bench.engines.client import Engine

ENDLESS = 1 << 20  # the engine cuts it to the room there is


def engine_of(model: str, slots: int, max_len: int = 2048, drafts: int = 0, **options: Any) -> Engine:
    """Without drafts unless it is said: where a step is the question, its tokens are to be those that are asked for."""
    options |= {"num_speculative_tokens": drafts}
    room = {"slots": slots, "max_len": max_len, "pages": 4 * max_len // 16}
    return Engine(model=model, threads=num_cores(), **room, **options)


def num_cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))


def prompt_of(number: int, num_tokens: int) -> list[int]:
    """Prompts that differ from their first token on."""
    return [2 + (7 * place + 13 * number + number * number) % 500 for place in range(num_tokens)]


def decode_rate(engine: Engine, streams: int, prompt: int, new: int, seed: int = 0, **fields: Any) -> float:
    """Tokens a second of all streams together, `new` tokens of each, from when the last of them had begun.

    `fields` of their orders; without, they are greedy.
    """
    prompts = [prompt_of(seed * 100 + number, prompt) for number in range(streams)]
    moments = begun(engine, prompts, **fields)
    started, wanted = latest(moments), count_of(moments) + new * streams
    engine.read_until(lambda: count_of(moments) >= wanted, moments)
    took_s = latest(moments) - started
    engine.cancel(*moments)
    return new * streams / took_s


def begun(engine: Engine, prompts: Sequence[list[int]], **fields: Any) -> dict[str, list[float]]:
    """Streams without an end, all of which have given a token."""
    moments: dict[str, list[float]] = {engine.start(prompt, ENDLESS, **fields): [] for prompt in prompts}
    engine.read_until(lambda: all(moments.values()), moments)
    return moments


def latest(moments: Mapping[str, list[float]]) -> float:
    """When the last token of all came."""
    return max(times[-1] for times in moments.values())


def count_of(moments: Mapping[str, list[float]]) -> int:
    """Tokens of all streams."""
    return sum(map(len, moments.values()))


def answers_s(engine: Engine, prompts: Sequence[list[int]], new: int) -> float:
    """Seconds from the first request to the last token of answers of `new` tokens, all asked for at once."""
    started = time.perf_counter()
    moments = engine.finish(*[engine.start(prompt, new) for prompt in prompts])
    return latest(moments) - started
