"""What the parts of `bench weights` that start models on a whole platform have in common.

Every request comes in over TLS at the edge: what it takes there is more than what it takes from the gateway on.
"""

import argparse
import asyncio
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench import llama, stage
from bench.caller import Answer
from bench.link import Link
from bench.rows import Row
from deploy.up import Running

NUM_PROMPT_TOKENS = 16
LAYERS = {"0.5 GB": 8, "1 GB": 17, "2 GB": 33}  # of `bench.llama`'s model: 0.49, 1.04 and 2.01 GB
RATES = (0.25e9, 0.5e9)  # the links, bytes a second

Say = Callable[[str], None]
Found = tuple[list[Row], list[str]]


@dataclass(frozen=True, slots=True)
class Model:
    """One of `bench.llama`'s models, pushed."""

    name: str
    folder: Path

    @property
    def num_bytes(self) -> int:
        """Of its weight file."""
        return (self.folder / "model.safetensors").stat().st_size


OnLink = Callable[[Running, Link, Path, Path, int, Say], Found]


def behind_link(measure: OnLink, options: argparse.Namespace, say: Say) -> Found:
    folder = llama.model_folder(options.cache, LAYERS["1 GB"])

    async def measured(scratch: Path) -> Found:
        async with stage.linked(scratch, say) as (running, link):
            return await asyncio.to_thread(measure, running, link, folder, scratch, options.runs, say)

    with tempfile.TemporaryDirectory(prefix="nearfield-bench-") as scratch:
        return asyncio.run(measured(Path(scratch)))


def pushed(running: Running, folder: Path, say: Say) -> Model:
    model = Model(f"bench/{folder.name}", folder)
    stage.push_until_live(running.credentials, folder, model.name, say)
    return model


def first_token(running: Running, model: Model, start: str) -> Answer:
    return stage.first_token(running, model.name, start, llama.prompt(NUM_PROMPT_TOKENS))


def median_s(answers: Sequence[Answer]) -> float:
    return median(answer.first_text_s for answer in answers)


def phases_of(answer: Answer) -> str:
    found: dict[str, float] = next(
        (each["start_phases"] for each in answer.receipts if "start_phases" in each), {}
    )
    return ", ".join(f"{name} {ms:.4g}" for name, ms in found.items())
