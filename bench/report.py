"""Does an outside load client see what our report says? The report's client and guidellm on one endpoint, in turns.

Like with like: both send the same greedy prompt over TLS to a warm model, one request after another on a kept
connection, two of each run uncounted; both clocks run from the request's first byte to the first piece of text that is
not empty (guidellm 0.8.1: `send_request_headers.started`, `add_streaming_line`). In each round ours goes half before
and half after guidellm. They agree where what lies between them, round by round, may be what lies between the clients
themselves: what they differ by on an endpoint that takes a known time.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from bench import guide, stage
from bench.agreement import MAX_RUNS, MIN_RUNS, Agreement
from bench.guide import UNCOUNTED, Figures, Load
from bench.llama import cache_folder
from bench.rows import Row
from deploy.report.arms import Start
from deploy.report.measure import MAX_TOKENS, PROMPT, ReportTarget, run_report
from deploy.report.probe import Probe, Question
from deploy.report.sample import Sample
from deploy.up import Running
from wire.tls import client_context

MODEL = "bench/tinychat"
NUM_RUNS = 5
NUM_REQUESTS = 20  # in a run of each client
BUDGET_S = 270.0  # of all rounds: with the platform's start and end the command is over within five minutes
OWN_ROUNDS = 1  # on the metronome, which varies little


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found: each round's figures of ours and of guidellm, of both on the metronome, and the open loop's."""

    rounds: list[tuple[Figures, Figures]]
    own: list[tuple[Figures, Figures]]
    opened: Figures
    opened_per_s: float


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--runs", type=int, choices=range(MIN_RUNS, MAX_RUNS + 1), default=NUM_RUNS)
    parser.add_argument("--requests", type=int, default=NUM_REQUESTS, help=f"in a run ({NUM_REQUESTS})")
    parser.add_argument("--cache", type=Path, default=cache_folder(), help="where guidellm is installed")


def measure(options: argparse.Namespace, say: Callable[[str], None]) -> tuple[list[Row], list[str]]:
    """Rows and notes."""
    program = guide.install(options.cache)
    with tempfile.TemporaryDirectory(prefix="nearfield-bench-") as scratch:
        found = asyncio.run(_run(options, program, Path(scratch), say))
    return judged(found, options.runs, options.requests)


async def _run(options: argparse.Namespace, program: Path, scratch: Path, say: stage.Say) -> Measured:
    until_s = time.monotonic() + BUDGET_S
    folder = Path(__file__).parents[1] / "examples" / "tinychat" / "model"
    async with stage.platform(scratch, say) as running:
        await asyncio.to_thread(stage.push_until_live, running.credentials, folder, MODEL, say)
        load = _load(running, folder, options)
        turns = _Turns(program, scratch, until_s, say)
        opened, per_s = await _opened(running, options.requests)
        rounds = await turns.of(load, options.runs, "round")
        tls = scratch / "platform" / "tls"
        with _metronome(tls / "server.pem", tls / "server.key") as port:
            own = await turns.of(replace(load, url=f"https://localhost:{port}"), OWN_ROUNDS, "metronome")
    return Measured(rounds, own, opened, per_s)


class _Turns:
    """Rounds of both clients, as many as the time allows: none is begun that the longest so far would not fit."""

    def __init__(self, program: Path, scratch: Path, until_s: float, say: stage.Say) -> None:
        self._program, self._scratch, self._until_s, self._say = program, scratch, until_s, say
        self._longest_s = 0.0

    async def of(self, load: Load, num: int, name: str) -> list[tuple[Figures, Figures]]:
        """At most `num` rounds on one endpoint."""
        found: list[tuple[Figures, Figures]] = []
        while len(found) < num and time.monotonic() + self._longest_s < self._until_s:
            began_s = time.monotonic()
            found.append(await self._round(load))
            self._longest_s = max(self._longest_s, time.monotonic() - began_s)
            ours, theirs = (median(each.first_ms) for each in found[-1])
            self._say(f"{name} {len(found)} of {num}: first token {ours:.1f} ms, guidellm {theirs:.1f} ms")
        return found

    async def _round(self, load: Load) -> tuple[Figures, Figures]:
        half = load.num // 2
        before = await _ours(load, half)
        left_s = self._until_s - time.monotonic()
        theirs = await asyncio.to_thread(guide.run, self._program, load, self._scratch, left_s)
        after = await _ours(load, load.num - half)
        return Figures(before.first_ms + after.first_ms, before.whole_ms + after.whole_ms), theirs


def _load(running: Running, folder: Path, options: argparse.Namespace) -> Load:
    c = running.credentials
    url = c.regions[stage.REGION].removesuffix("/v1")
    return Load(url, c.api_key, Path(c.ca), MODEL, folder, PROMPT, MAX_TOKENS, options.requests)


async def _ours(load: Load, num: int) -> Figures:
    """The report's own client, one request after another."""
    question = Question(MODEL, "generate", load.prompt, load.max_tokens)
    async with Probe(stage.REGION, load.url, client_context(load.ca), load.key, question) as probe:
        samples = [await probe.ask(Start.WARM) for _ in range(UNCOUNTED + num)]
    return _figures(samples[UNCOUNTED:])


async def _opened(running: Running, num: int) -> tuple[Figures, float]:
    """The report itself, with warm requests alone: at random times, and a clock that starts when they were due."""
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
        num_warm=num,
    )
    report = await run_report(target)
    return _figures(report.samples), report.settings.warm_per_s[stage.REGION]


def _figures(samples: Sequence[Sample]) -> Figures:
    if any(each.failure or each.start is not Start.WARM for each in samples):
        raise stage.Broken("a request of the report's client failed, or was not warm")
    return Figures(
        tuple(each.ttft_ms for each in samples if each.ttft_ms is not None),
        tuple(each.e2e_ms for each in samples if each.e2e_ms is not None),
    )


@contextmanager
def _metronome(certificate: Path, key: Path) -> Iterator[int]:
    """An endpoint that takes a known time, in a process of its own; its port."""
    command = (sys.executable, "-m", "bench.metronome", str(certificate), str(key))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            yield int(child.stdout.readline() if child.stdout else "")
        finally:
            child.terminate()


def judged(found: Measured, num_runs: int, num_requests: int) -> tuple[list[Row], list[str]]:
    """A row of each figure, that of the first token judged, and the notes. Raises: Broken with too few rounds."""
    if len(found.rounds) < MIN_RUNS:
        raise stage.Broken(f"{len(found.rounds)} rounds fitted in {BUDGET_S:g} s: no interval")
    given = f"{num_requests} requests of each client in each, {MAX_TOKENS} tokens, warm, one after another"
    opened = (
        f"first token {median(found.opened.first_ms):.1f} ms in the middle, n = {len(found.opened.first_ms)}"
    )
    notes = [
        f"{len(found.rounds)} of {num_runs} rounds fitted in {BUDGET_S:g} s, {given}",
        "intervals are 95 %, over the rounds' medians (Student's t): requests of one round share their minute",
        f"the report's warm arm beside it, at random times, {found.opened_per_s:.1f} a second: {opened}",
    ]
    rows = [_row(what, field, found, num_runs, notes) for what, field in FIGURES.items()]
    return rows, notes


FIGURES = {"first token": "first_ms", "whole answer": "whole_ms"}


def _row(what: str, field: str, found: Measured, num_runs: int, notes: list[str]) -> Row:
    seen = Agreement.of(_samples(found.rounds, field))
    own_ms = _own_ms(_samples(found.own, field))
    agree = seen.apart.holds(own_ms or 0.0)
    notes.append(_said(what, seen, own_ms, agree=agree))
    target = 1.0 if field == "first_ms" else None
    holds = target is None or (agree and len(found.rounds) == num_runs)
    ratio = seen.theirs.mean / seen.ours.mean
    return Row(
        f"{what}, mean of the rounds' medians", seen.ours.mean, seen.theirs.mean, "ms", ratio, target, holds
    )


Pairs = list[tuple[tuple[float, ...], tuple[float, ...]]]


def _samples(rounds: Sequence[tuple[Figures, Figures]], field: str) -> Pairs:
    return [(getattr(ours, field), getattr(theirs, field)) for ours, theirs in rounds]


def _own_ms(pairs: Pairs) -> float | None:
    """By how much guidellm's fastest is above ours on the metronome; None if neither was there.

    What it answers takes the same each time, so all that varies is what others took of the machine, and the fastest has
    the least of it.
    """
    if not pairs:
        return None
    ours, theirs = ([each for samples in side for each in samples] for side in zip(*pairs, strict=True))
    return float(min(theirs) - min(ours))


def _said(what: str, seen: Agreement, own_ms: float | None, *, agree: bool) -> str:
    apart = f"guidellm minus ours, round by round, {seen.apart}"
    clients = "no time was left for it" if own_ms is None else f"{own_ms:.1f} ms"
    verdict = "they agree" if agree else "they DO NOT agree"
    return f"{what}: ours {seen.ours}, guidellm {seen.theirs}; {apart}, on the metronome {clients}: {verdict}"
