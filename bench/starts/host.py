"""First tokens from the host, three sizes: the weights are in its memory, and no process of the model is up.

The sizes take turns, and so do starts and warm requests of each, so that a machine that changes changes all of them.
"""

import argparse
import asyncio
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench import llama, stage
from bench.caller import Answer
from bench.rows import Row, compare
from bench.starts import parts, receipts
from bench.starts.parts import LAYERS, NUM_PROMPT_TOKENS, Found, Model, Say
from deploy.up import Running

LEAST_RUNS = 5  # the difference of two medians wants more than three
HOST_S = 1.0  # the issue's, for the 1 GB model
LEAST_S = 0.001


@dataclass(slots=True)
class Answers:
    """Of one size: from the host, warm right after it, and the first of a process that was pre-warmed."""

    host: list[Answer] = field(default_factory=list)
    warm: list[Answer] = field(default_factory=list)
    resident: list[Answer] = field(default_factory=list)


def measure(options: argparse.Namespace, say: Say) -> Found:
    """Rows and notes."""
    folders = {size: llama.model_folder(options.cache, layers) for size, layers in LAYERS.items()}
    with tempfile.TemporaryDirectory(prefix="nearfield-bench-") as scratch:
        return asyncio.run(_measured(folders, Path(scratch), max(options.runs, LEAST_RUNS), say))


async def _measured(folders: dict[str, Path], scratch: Path, num_runs: int, say: Say) -> Found:
    async with stage.platform(scratch, say) as running:
        return await asyncio.to_thread(_from_host, running, folders, num_runs, say)


def _from_host(running: Running, folders: dict[str, Path], num_runs: int, say: Say) -> Found:
    models = {size: parts.pushed(running, folder, say) for size, folder in folders.items()}
    found = {size: Answers() for size in models}
    for number in range(num_runs + 1):  # the first round warms page caches and byte code
        for size, model in models.items():
            one = _round(running, model)
            if number:
                for kept, answer in zip(
                    (found[size].host, found[size].warm, found[size].resident), one, strict=True
                ):
                    kept.append(answer)
        said = ", ".join(
            f"{size} {each.host[-1].first_text_s:.3f} s" for size, each in found.items() if each.host
        )
        say(f"from the host, round {number} of {num_runs}: {said or 'warming up'}")
    rows = host_rows(
        {size: [answer.first_text_s for answer in each.host] for size, each in found.items()},
        {size: [answer.first_text_s for answer in each.warm] for size, each in found.items()},
    )
    for size, each in found.items():
        rows += receipts.rows(each.host, f"{size} from the host")
        rows += receipts.rows(
            each.resident, f"{size} resident, the first request of a process that was pre-warmed"
        )
    notes = [
        f"{size}, from the host, last run (ms): {parts.phases_of(each.host[-1])}"
        for size, each in found.items()
    ]
    small, large = found["0.5 GB"], found["2 GB"]
    notes += [
        receipts.grown(small.host, large.host, "longer from the host, 0.5 and 2 GB (ms)"),
        receipts.grown(small.warm, large.warm, "longer when warm, 0.5 and 2 GB (ms)"),
        receipts.grown(large.warm, small.warm, "shorter when warm, 2 and 0.5 GB (ms)"),
        receipts.grown(small.resident, large.resident, "longer when resident, 0.5 and 2 GB (ms)"),
    ]
    return rows, [
        "host state: the weights are in the host's memory, and no process of the model is up",
        *notes,
    ]


def _round(running: Running, model: Model) -> tuple[Answer, Answer, Answer]:
    """One of each; then no process of the model is up, so that it shares the cores with none of another size."""
    host = parts.first_token(running, model, "host")
    warm = parts.first_token(running, model, "warm")
    resident = parts.first_token(running, model, "resident")
    stage.cool(running.credentials, model.name, "host")
    return host, warm, resident


def host_rows(host: dict[str, list[float]], warm: dict[str, list[float]]) -> list[Row]:
    """`host` and `warm`: seconds to the first token by size, of the same rounds."""
    num_runs = len(host["1 GB"])
    told = f"first token from the host through the edge, {NUM_PROMPT_TOKENS} tokens of prompt, median of {num_runs}"
    limit = [
        compare(
            f"{told}, {size}",
            median(seconds),
            HOST_S,
            "s",
            better="lower",
            target=1.0 if size == "1 GB" else None,
        )
        for size, seconds in host.items()
    ]
    longer, prefill = (max(LEAST_S, _longer_s(seconds)) for seconds in (host, warm))
    what = (
        "how much longer 2 GB take than 0.5 GB from the host, against how much longer when warm (prefill), "
        f"middles of {num_runs} pairs"
    )
    return [*limit, compare(what, longer, prefill, "s", better="lower", target=1.0)]


def _longer_s(seconds: dict[str, list[float]]) -> float:
    """The middle of what the largest took longer than the smallest in the same round."""
    return median(large - small for large, small in zip(seconds["2 GB"], seconds["0.5 GB"], strict=True))
