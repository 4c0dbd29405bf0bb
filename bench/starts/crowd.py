"""Many requests at once for one cold model: how often its bytes are read, and how long the last of them waits.

Single requests and crowds take turns, each a start from the region's store. A crowd's own work (its prompts'
arithmetic, and each request's way through edge, gateway and node) is there without any start too: crowds of the same
model when it is warm take turns with single requests as well, and say how much of a cold one it is.

The client's threads only wait: with requests written beforehand and one thread that looks at all connections, 64 warm
requests took the same 0.43 s, 5 ms of them the client's own processor time.
"""

import argparse
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench import llama, stage
from bench.caller import Answer, Caller
from bench.link import Link
from bench.rows import Row, compare, quantile
from bench.starts import parts
from bench.starts.parts import RATES, Found, Model, Say
from deploy.up import Running

NUM_CROWD = 64
LEAST_RUNS = 5  # over loopback, where a machine's own hiccups count: two of five are out of the middle
CROWD_BYTES = 1.02  # the issue's: bytes read by 64 waiting requests, against the model's
OF_SINGLE = 1 / 1.3  # the issue's: their p99 against a single one


@dataclass(slots=True)
class Turns:
    """Seconds to the first token, of a crowd its p99; and bytes read by each cold crowd, as a share of the model's."""

    single: list[float] = field(default_factory=list)
    crowd: list[float] = field(default_factory=list)
    warm_single: list[float] = field(default_factory=list)
    warm_crowd: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)

    @property
    def own_s(self) -> float:
        """What a crowd takes longer than a single request when nothing has to start: the middle of the pairs."""
        return median(many - one for many, one in zip(self.warm_crowd, self.warm_single, strict=True))


def measure(options: argparse.Namespace, say: Say) -> Found:
    """Over loopback and a slow link."""
    return parts.behind_link(_crowds, options, say)


def _crowds(running: Running, link: Link, folder: Path, _: Path, num_runs: int, say: Say) -> Found:
    model = parts.pushed(running, folder, say)
    parts.first_token(running, model, "region")
    counts = {0.0: max(num_runs, LEAST_RUNS), RATES[0]: num_runs}
    rows = [
        row
        for rate, count in counts.items()
        for row in _rows(rate, _turns(running, link, model, rate, count, say))
    ]
    notes = ["links are SIMULATED by a relay of ours between the region and its store"]
    return rows, [*notes, "the crowd's prompts have one token each, so that 64 prefills do not hide the load"]


def _turns(running: Running, link: Link, model: Model, rate: float, num_runs: int, say: Say) -> Turns:
    """As many pairs, cold and warm; who is first changes."""
    turns = Turns()
    for number in range(num_runs):
        for count in (1, NUM_CROWD) if number % 2 else (NUM_CROWD, 1):
            link.set(rate)
            last_s = _last_s(_at_once(running, model, count, is_cold=True))
            share = link.set(0) / model.num_bytes
            (turns.single if count == 1 else turns.crowd).append(last_s)
            turns.shares += [share] if count > 1 else []
        turns.warm_single.append(_last_s(_at_once(running, model, 1, is_cold=False)))
        turns.warm_crowd.append(_last_s(_at_once(running, model, NUM_CROWD, is_cold=False)))
        cold = f"single {turns.single[-1]:.3f} s, p99 of {NUM_CROWD} {turns.crowd[-1]:.3f} s"
        warm = f"warm {turns.warm_single[-1]:.3f} and {turns.warm_crowd[-1]:.3f} s"
        say(f"crowd {number + 1} of {num_runs}: {turns.shares[-1]:.4f}x of the bytes, {cold}; {warm}")
    return turns


def _rows(rate: float, turns: Turns) -> list[Row]:
    over = f"a SIMULATED link of {rate / 1e9:g} GB/s" if rate else "loopback"
    what, num_runs = f"{NUM_CROWD} requests that wait for one cold model over {over}", len(turns.single)
    read = f"{what}: bytes read against the model's, worst of {num_runs}"
    last = f"{what}: p99 of their first tokens against a single one's, medians of {num_runs} pairs"
    floor = f"{what}: the same against a single one and what {NUM_CROWD} take longer than one when it is warm"
    single_s, crowd_s = median(turns.single), median(turns.crowd)
    return [
        compare(read, max(turns.shares), CROWD_BYTES, "x", better="lower", target=1.0),
        compare(last, crowd_s, single_s, "s", better="lower", target=OF_SINGLE),
        compare(floor, crowd_s, single_s + turns.own_s, "s", better="lower"),
    ]


def _last_s(answers: list[Answer]) -> float:
    return quantile([answer.first_text_s for answer in answers], 0.99)


def _at_once(running: Running, model: Model, count: int, *, is_cold: bool) -> list[Answer]:
    """So many requests of one token at the same moment, each on a connection that is there."""
    if is_cold:
        stage.cool(running.credentials, model.name, "region")
    callers = [stage.caller(running) for _ in range(count)]
    for each in callers:
        each.connect()
    gate = threading.Barrier(count)

    def ask(speaker: Caller) -> Answer:
        gate.wait()
        return speaker.stream("/v1/completions", stage.completion(model.name, llama.prompt(1)))

    with ThreadPoolExecutor(count) as pool:
        answers = list(pool.map(ask, callers))
    for each in callers:
        each.close()
    return answers
