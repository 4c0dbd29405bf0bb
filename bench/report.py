"""Does an outside load client see what our report says? The report and guidellm on one endpoint, in alternating runs.

Both send the same greedy prompt over TLS to a warm model, the report at random times as often as one client would,
guidellm one request after another; each run gives a median with its bootstrap 95 % interval. They agree where the
intervals of all requests overlap: then no difference is seen beyond what the runs themselves show.
"""

import argparse
import asyncio
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import guide, stage
from bench.guide import Figures, Load
from bench.llama import cache_folder
from bench.rows import Row
from deploy.report.arms import Start
from deploy.report.measure import MAX_TOKENS, PROMPT, ReportTarget, run_report
from deploy.report.stats import summary
from deploy.up import Running

MODEL = "bench/tinychat"
NUM_RUNS = 5
NUM_REQUESTS = 20  # in a run; a median needs so many


@dataclass(frozen=True, slots=True)
class Median:
    """A median in milliseconds and its 95 % interval."""

    ms: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Median":
        """Of raw samples, at least twenty."""
        found = summary(samples)
        if found.p50 is None or found.interval is None:
            raise stage.Broken(f"{len(samples)} requests are too few for a median")
        return cls(found.p50, *found.interval)

    def overlaps(self, other: "Median") -> bool:
        """Whether the intervals have a value in common."""
        return self.low <= other.high and other.low <= self.high

    def __str__(self) -> str:
        return f"{self.ms:.1f} [{self.low:.1f}, {self.high:.1f}] ms"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--runs", type=int, default=NUM_RUNS, help=f"of each client ({NUM_RUNS})")
    parser.add_argument("--requests", type=int, default=NUM_REQUESTS, help=f"in a run ({NUM_REQUESTS})")
    parser.add_argument("--cache", type=Path, default=cache_folder(), help="where guidellm is installed")


def measure(options: argparse.Namespace, say: Callable[[str], None]) -> tuple[list[Row], list[str]]:
    """Rows and notes."""
    program = guide.install(options.cache)
    with tempfile.TemporaryDirectory(prefix="nearfield-bench-") as scratch:
        runs = asyncio.run(_run(options, program, Path(scratch), say))
    how = f"{options.requests} requests each, {MAX_TOKENS} tokens, warm, as often as one client makes them"
    notes = [f"{options.runs} runs of each in turn, {how}; medians with bootstrap 95 % intervals"]
    return rows(runs, notes), notes


async def _run(
    options: argparse.Namespace, program: Path, scratch: Path, say: stage.Say
) -> list[tuple[Figures, Figures]]:
    folder = Path(__file__).parents[1] / "examples" / "tinychat" / "model"
    async with stage.platform(scratch, say) as running:
        await asyncio.to_thread(stage.push_until_live, running.credentials, folder, MODEL, say)
        load = _load(running, folder, options)
        found = []
        for number in range(options.runs):
            ours: Figures | None = None
            if number % 2 == 0:
                ours = await _ours(running, options, number)
            theirs = await asyncio.to_thread(guide.run, program, load, scratch)
            found.append((ours or await _ours(running, options, number), theirs))
            say(f"run {number + 1} of {options.runs}")
        return found


def _load(running: Running, folder: Path, options: argparse.Namespace) -> Load:
    c = running.credentials
    url = c.regions[stage.REGION].removesuffix("/v1")
    return Load(url, c.api_key, Path(c.ca), MODEL, folder, PROMPT, MAX_TOKENS, options.requests)


async def _ours(running: Running, options: argparse.Namespace, seed: int) -> Figures:
    """The report itself, with warm requests alone."""
    c = running.credentials
    target = ReportTarget(
        admin_url=c.admin_url,
        pins=dict(c.regions),
        ca=Path(c.ca),
        api_key=c.api_key,
        admin_key=c.admin_key,
        model=MODEL,
        regions=(stage.REGION,),
        num_cold=0,
        num_warm=options.requests,
        seed=seed,
    )
    samples = (await run_report(target)).samples
    if any(each.failure or each.start is not Start.WARM for each in samples):
        raise stage.Broken("a request of the report failed, or was not warm")
    return Figures(
        tuple(each.ttft_ms for each in samples if each.ttft_ms is not None),
        tuple(each.e2e_ms for each in samples if each.e2e_ms is not None),
    )


def rows(runs: Sequence[tuple[Figures, Figures]], notes: list[str]) -> list[Row]:
    """A row for each run and one for all, of both figures; `holds` is whether the intervals overlap. Adds notes."""
    found = []
    for what, figure in (("first token", "first_ms"), ("whole answer", "whole_ms")):
        pairs = [(getattr(ours, figure), getattr(theirs, figure)) for ours, theirs in runs]
        for number, (ours, theirs) in enumerate(pairs, 1):
            found.append(_row(f"p50 of the {what}, run {number}", ours, theirs, notes, is_judged=False))
        mine, other = ([each for samples in side for each in samples] for side in zip(*pairs, strict=True))
        found.append(_row(f"p50 of the {what}, all runs", mine, other, notes, is_judged=True))
    return found


def _row(
    what: str, ours: Sequence[float], theirs: Sequence[float], notes: list[str], *, is_judged: bool
) -> Row:
    mine, other = Median.of(ours), Median.of(theirs)
    agree = mine.overlaps(other)
    notes.append(
        f"{what}: report {mine}, guidellm {other}: intervals {'overlap' if agree else 'DO NOT overlap'}"
    )
    target = 1.0 if is_judged else None
    return Row(what, mine.ms, other.ms, "ms", other.ms / mine.ms, target, agree or not is_judged)
