"""Does an outside load client see what our report says? The report's client and guidellm on one endpoint, in turns.

Like with like: both send the same greedy prompt over TLS to a warm model, one request after another, each on a
connection of its own, two of each run uncounted; both clocks run from the request's first byte, when TLS is up, to the
first piece of text that is not empty (guidellm 0.8.1: `send_request_headers.started`, `add_streaming_line`). In each
round ours goes half before and half after guidellm.

A connection of its own is guidellm's doing: it leaves a stream at `[DONE]`, unread to the end, so httpx closes it. The
first request of a connection goes through an edge the long way; ours on a kept connection, the report's own way, is
measured in the same rounds and shows what that costs.

guidellm takes a while between an answer and its next request, in which others fill the caches and cores rest: the
server's own work is slower after it. Ours pauses for as long as guidellm did in its run before.

The edge's own receipt of each request splits what lies between the clients: what the server took longer, and what each
client adds on its own side of the wire. They agree where what lies between them, round by round, may be what they add.
Beside it both ask an endpoint that takes a known time: what they add where nothing computes beside them.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median

from bench import stage, told
from bench.clients import guide
from bench.clients.agreement import MAX_RUNS, MIN_RUNS
from bench.clients.guide import UNCOUNTED, Figures, Load
from bench.clients.judged import BUDGET_S, Measured, Round, judged
from bench.llama import cache_folder
from bench.rows import Row
from deploy.report.arms import Start
from deploy.report.measure import MAX_TOKENS, PROMPT, ReportTarget, run_report
from deploy.report.probe import Probe, Question
from deploy.report.sample import Sample
from deploy.up import Running
from wire.secured.tls import client_context

MODEL = "bench/tinychat"
NUM_RUNS = 5
NUM_REQUESTS = 20  # in a run of each client
OWN_ROUNDS = 1  # on the metronome, which varies little


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
        tls = scratch / "platform" / "tls"
        with _metronome(tls / "server.pem", tls / "server.key") as port:
            own = await turns.of(replace(load, url=f"https://localhost:{port}"), OWN_ROUNDS, "metronome")
        rounds = await turns.of(load, options.runs, "round", running)
    return Measured(rounds, own, opened, per_s)


class _Turns:
    """Rounds of both clients, as many as the time allows: none is begun that the longest so far would not fit."""

    def __init__(self, program: Path, scratch: Path, until_s: float, say: stage.Say) -> None:
        self._program, self._scratch, self._until_s, self._say = program, scratch, until_s, say
        self._longest_s = self._pause_s = 0.0

    async def of(self, load: Load, num: int, name: str, running: Running | None = None) -> list[Round]:
        """At most `num` rounds on one endpoint; `running`: the platform that it is of, which tells of each request."""
        found: list[Round] = []
        while len(found) < num and time.monotonic() + self._longest_s < self._until_s:
            began_s = time.monotonic()
            found.append(await self._round(load, running))
            self._longest_s = max(self._longest_s, time.monotonic() - began_s)
            last = found[-1]
            ours, theirs, kept = (median(each.first_ms) for each in (last.ours, last.theirs, last.kept))
            times = f"{ours:.1f} ms, guidellm {theirs:.1f} ms, ours on a kept connection {kept:.1f} ms"
            self._say(f"{name} {len(found)} of {num}: first token {times}")
        return found

    async def _round(self, load: Load, running: Running | None) -> Round:
        before, kept = await self._half(load, running, load.num // 2)
        left_s = self._until_s - time.monotonic()
        theirs = await asyncio.to_thread(guide.run, self._program, load, self._scratch, left_s)
        self._pause_s = theirs.pause_s
        theirs = await _with_told(running, theirs)
        after, kept_after = await self._half(load, running, load.num - load.num // 2)
        return Round(before.and_then(after), theirs, kept.and_then(kept_after))

    async def _half(self, load: Load, running: Running | None, num: int) -> tuple[Figures, Figures]:
        """Ours on connections of their own, and on a kept one."""
        own = await _with_told(running, await _ours(load, num, self._pause_s, is_kept=False))
        return own, await _with_told(running, await _ours(load, num, self._pause_s, is_kept=True))


async def _with_told(running: Running | None, seen: Figures) -> Figures:
    """With the edge's word of these requests, which were the last."""
    if running is None:
        return seen
    return replace(seen, told=await told.last(running.credentials, MODEL, len(seen.first_ms)))


def _load(running: Running, folder: Path, options: argparse.Namespace) -> Load:
    c = running.credentials
    url = c.regions[stage.REGION].removesuffix("/v1")
    return Load(url, c.api_key, Path(c.ca), MODEL, folder, PROMPT, MAX_TOKENS, options.requests)


async def _ours(load: Load, num: int, pause_s: float, *, is_kept: bool) -> Figures:
    """The report's own client, one request after another, `pause_s` between them."""
    question = Question(MODEL, "generate", load.prompt, load.max_tokens)
    tls = client_context(load.ca)
    asked: list[Sample] = []
    while len(asked) < UNCOUNTED + num:
        async with Probe(stage.REGION, load.url, tls, load.key, question) as probe:
            together = UNCOUNTED + num if is_kept else 1
            asked += [await _asked(probe, pause_s) for _ in range(together)]
    return _figures(asked[UNCOUNTED:])


async def _asked(probe: Probe, pause_s: float) -> Sample:
    await asyncio.sleep(pause_s)
    return await probe.ask(Start.WARM)


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
    command = (sys.executable, "-m", "bench.clients.metronome", str(certificate), str(key))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            yield int(child.stdout.readline() if child.stdout else "")
        finally:
            child.terminate()
