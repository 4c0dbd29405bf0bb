"""transformers' continuous batching of one crowd, in the process that `bench.engines.child` is for it.

Its attention without flash-attn is one dense product over all prompts, so a large crowd of long prompts takes minutes
on a CPU. A crowd is therefore stopped after a while, and how much of it was done then is told with the time.
"""

from __future__ import annotations

import time
from typing import Any

import torch

PAGE_TOKENS = 16  # as ours


def crowd_s(
    model: Any, run: tuple[int, int, int], limit_s: float | None, *, on_cpu: bool
) -> tuple[float, float]:
    """Seconds of a crowd (streams, prompt, new tokens) that is there from the start, and how much of it was done.

    A short crowd goes before it. The part that was done counts prompts that have an answer's first token, tokens of
    answers, and one prompt more, which may be half computed.
    """
    import transformers

    streams, prompt, new = run
    make: Any = transformers.GenerationConfig
    with (
        model.continuous_batching_context_manager(
            generation_config=make(max_new_tokens=new, do_sample=False, eos_token_id=-1),
            continuous_batching_config=_settings(run, on_cpu=on_cpu),
            workload_hints=_hints(run),
            timeout=5,
            warmup=not on_cpu,
        ) as manager,
        torch.no_grad(),
    ):
        _answered(manager, _prompts(streams, PAGE_TOKENS), 2, None)
        started = time.perf_counter()
        num_done = _answered(manager, _prompts(streams, prompt), new, limit_s)
        took_s = time.perf_counter() - started
        return took_s, min(1.0, num_done / (streams * (prompt + new)))


def _prompts(streams: int, length: int) -> list[list[int]]:
    """Prompts that differ from their first token on."""
    return [[2 + (7 * i + 13 * row + row * row) % 500 for i in range(length)] for row in range(streams)]


def _settings(run: tuple[int, int, int], *, on_cpu: bool) -> Any:
    """On a GPU its own choices of sizes."""
    import transformers

    if not on_cpu:
        return transformers.ContinuousBatchingConfig()
    streams, prompt, new = run
    num_blocks = streams * (-(-(prompt + new) // PAGE_TOKENS) + 1)
    return transformers.ContinuousBatchingConfig(
        block_size=PAGE_TOKENS, num_blocks=num_blocks, max_batch_tokens=512
    )


def _hints(run: tuple[int, int, int]) -> Any:
    from transformers.generation.continuous_batching.utils import WorkloadHints

    streams, prompt, new = run
    return WorkloadHints(prompt, new, streams)


def _answered(manager: Any, prompts: list[list[int]], num_new: int, limit_s: float | None) -> int:
    """Tokens that were computed, prompts included, when all had ended or the time was up."""
    until = None if limit_s is None else time.perf_counter() + limit_s
    manager.add_requests(inputs=prompts, max_new_tokens=num_new, streaming=until is not None)
    counts: dict[str, int] = {}
    waiting = len(prompts)
    while waiting and (until is None or time.perf_counter() < until):
        found = manager.get_result(timeout=1)
        if found is not None:
            counts[found.request_id] = len(found.generated_tokens)
            waiting -= found.is_finished()
        elif not manager.is_running():
            raise RuntimeError("transformers' continuous batching ended by itself")
    begun = len(counts) + (waiting > 0)
    return begun * len(prompts[0]) + sum(counts.values())
