"""The rows of `bench engine --device cuda:N`: one stream against the memory's bandwidth, and a crowd against a peer.

The model has the sizes of Llama 3 8B and random weights in bfloat16, made on the device. A stream's every token reads
every weight once, so the bandwidth bounds it; that is measured in the same run, by summing a large tensor.
"""

from __future__ import annotations

import os
import time
from statistics import median
from typing import TYPE_CHECKING

import torch

from bench.engines.client import Engine, batched, stop_note
from bench.rows import Row, compare

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WEIGHT_BYTES = 16_060_522_496  # of bench.engines.child.EIGHT_B in bfloat16
ROOFLINE_SHARE = 0.6  # the issue's
PEER_FACTOR = 5.0  # research/inference.md, section 6: of transformers' continuous batching
PROMPT, NEW = 128, 256
CROWD = (256, 512, 256)  # streams, prompt tokens, new tokens
READ_BYTES = 8 << 30


def measure(
    device: str, num_runs: int, peer_s: float, say: Callable[[str], None]
) -> tuple[list[Row], list[str]]:
    """Rows and notes; the peer's crowd is stopped after `peer_s` seconds."""
    if not torch.cuda.is_available():
        raise SystemExit(f"{device}: torch {torch.__version__} finds no CUDA device here")
    bandwidth = _bytes_per_s(device)
    name = torch.cuda.get_device_name(device)
    say(f"{name} reads {bandwidth / 1e9:,.0f} GB/s")
    streams, prompt, new = CROWD
    with _engine(device, 1) as engine:
        _crowd_s(engine, 1, PROMPT, 32)  # kernels are compiled, the graph is captured
        one = median(_rate(engine, n + 1) for n in range(num_runs))
    say(f"one stream: {one:,.1f} tokens a second")
    with _engine(device, streams) as engine:
        _crowd_s(engine, streams, 64, 32)
        ours_s = median(_crowd_s(engine, *CROWD, n + 1) for n in range(num_runs))
    say(f"{streams} streams: {streams * new / ours_s:,.0f} tokens a second")
    ((theirs_s, done),) = batched("8b", _cores(), [CROWD], peer_s, device=device)
    rows = [
        compare(
            "one stream of an 8B-shaped model in bfloat16, against the memory's bandwidth",
            *(one, bandwidth / WEIGHT_BYTES, "tok/s"),
            better="higher",
            target=ROOFLINE_SHARE,
        ),
        compare(
            f"answers of {new} tokens at {streams} x {prompt} prompt, transformers' continuous batching"
            f"{stop_note(theirs_s, done)}",
            *(streams * new / ours_s, streams * new * done / theirs_s, "tok/s"),
            better="higher",
            target=PEER_FACTOR,
        ),
    ]
    return rows, [
        f"{name}; bandwidth {bandwidth / 1e9:,.0f} GB/s, measured by summing {READ_BYTES >> 30} GiB"
    ]


def _bytes_per_s(device: str) -> float:
    flat = torch.ones(READ_BYTES // 4, device=device)
    seconds = []
    for _ in range(10):
        torch.cuda.synchronize(device)
        started = time.perf_counter()
        flat.sum()
        torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    del flat
    torch.cuda.empty_cache()
    return READ_BYTES / min(seconds)


def _engine(device: str, slots: int) -> Engine:
    return Engine(model="8b", device=device, threads=_cores(), slots=slots, max_len=1024)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _prompts(streams: int, prompt: int, seed: int) -> Sequence[list[int]]:
    """Prompts that differ from their first token on."""
    starts = range(seed * streams, (seed + 1) * streams)
    return [[2 + (7 * at + 13 * n + n * n) % 100_000 for at in range(prompt)] for n in starts]


def _rate(engine: Engine, seed: int) -> float:
    """Tokens a second of one stream, from its first token on."""
    (prompt,) = _prompts(1, PROMPT, seed)
    moments = engine.finish(name := engine.start(prompt, NEW))[name]
    return (len(moments) - 1) / (moments[-1] - moments[0])


def _crowd_s(engine: Engine, streams: int, prompt: int, new: int, seed: int = 0) -> float:
    started = time.perf_counter()
    moments = engine.finish(*[engine.start(tokens, new) for tokens in _prompts(streams, prompt, seed)])
    return max(times[-1] for times in moments.values()) - started
