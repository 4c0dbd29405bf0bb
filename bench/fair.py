"""One tenant at fifty times the load of three others: what those see of it, through edge, gateway, node and engine.

Each of the three sends streams at a steady rate: alone, beside the one, and beside the one with a quota, in turns. All
rounds are one sample: of one round's 72 answers the p99 is the slowest, and a stall of the machine is what it tells.
The middle one of the rounds is told beside that: a stall while the three were alone would hide what the one does.
"""

import argparse
import asyncio
import json
import math
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from http import HTTPStatus
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

from bench import stage
from bench.fair_load import Asked, Load
from bench.rows import Row, compare, middle, quantile
from deploy.client import Client
from deploy.up import Running

MODEL = "bench/tinychat"
OTHERS = ("ada", "bob", "cem")
HOG = "hog"
TIMES = 50  # the issue's
OF_QUIET = 1 / 1.5  # the issue's: the others' p99 stays within 1.5 times
NUM_TOKENS = 32
STREAMS = 4  # the quota: as many as the three others have at once, and a few more
SETTLE_S = 1.0
SEED = 100
RESAMPLES = 1_000  # of the rounds, to tell how far chance alone moves a quotient

Say = Callable[[str], None]
Asks = dict[str, list[Asked]]
Round = dict[str, Asks]


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--seconds", type=float, default=12.0, help="of each of the three loads (12)")
    parser.add_argument("--rounds", type=int, default=7, help="of the three loads, in turns (7)")
    parser.add_argument("--rate", type=float, default=2.0, help="streams a second of each of the three (2)")
    parser.add_argument("--model", type=Path, default=None, help="a model folder (examples/tinychat/model)")


def measure(options: argparse.Namespace, say: Say) -> tuple[list[Row], list[str]]:
    """Rows and notes."""
    with tempfile.TemporaryDirectory(prefix="nearfield-bench-") as scratch:
        return asyncio.run(_run(options, Path(scratch), say))


async def _run(options: argparse.Namespace, scratch: Path, say: Say) -> tuple[list[Row], list[str]]:
    folder = options.model or Path(__file__).parents[1] / "examples" / "tinychat" / "model"
    async with stage.platform(scratch, say) as running:
        await asyncio.to_thread(stage.push_until_live, running.credentials, folder, MODEL, say)
        free = {name: await asyncio.to_thread(_key, running, name, 0) for name in (*OTHERS, HOG)}
        bounded = await asyncio.to_thread(_key, running, HOG, STREAMS)
        await _loads(running, free, 1.0, options.rate, "warm")  # first requests meet no kept connections
        phases = {
            "alone": {name: free[name] for name in OTHERS},
            "beside one at 50x": free,
            "beside it with a quota": free | {HOG: bounded},
        }
        rounds = [await _round(running, phases, options, n, say) for n in range(options.rounds)]
    rows = [row for what in phases if what != "alone" for row in _rows(what, rounds)]
    return rows, _notes(options, rounds)


def _key(running: Running, tenant: str, streams: int) -> str:
    quota = {"requests_per_min": 0, "tokens_per_min": 0, "streams": streams, "weight": 1}
    order = {"tenant": tenant, "name": "bench", "scopes": ["infer"], "quota": quota}
    return str(Client(running.credentials, admin=True).post("/nearfield/keys", order).body["key"])


async def _round(
    running: Running, phases: dict[str, dict[str, str]], options: argparse.Namespace, number: int, say: Say
) -> Round:
    """Each phase once, at moments of this round's own; every round begins with the next phase."""
    found = {}
    turn = number % len(phases)
    for what in [*phases][turn:] + [*phases][:turn]:
        await asyncio.sleep(SETTLE_S)
        prompts = f"{what} {number}"
        asks = await _loads(running, phases[what], options.seconds, options.rate, prompts, number)
        found[what] = asks
        counts = dict(Counter(one.status for one in asks.get(HOG, [])))
        p50, worst = (_quantiles([asks[name] for name in OTHERS], share)[1] for share in (0.5, 1.0))
        say(f"{what}: the others' p50 {p50:.3f} s, the slowest {worst:.3f} s; the one's {counts}")
    return found


async def _loads(
    running: Running, keys: dict[str, str], seconds: float, rate: float, prompts: str, number: int = 0
) -> Asks:
    """Everyone's clients at once, each tenant's in a process of its own, at the same moments in each phase."""
    address = urlsplit(running.credentials.base_url)
    loads = {}
    for n, (name, key) in enumerate(keys.items()):
        per_s = rate * TIMES if name == HOG else rate
        where = (address.hostname or "", address.port or 443, str(running.credentials.ca), key, MODEL)
        loads[name] = Load(*where, per_s, seconds, NUM_TOKENS, SEED * (number + 1) + n, prompts)
    found = await asyncio.gather(*map(_child, loads.values()))
    return dict(zip(loads, found, strict=True))


async def _child(load: Load) -> list[Asked]:
    command = (sys.executable, "-m", "bench.fair_load", json.dumps(asdict(load)))
    child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await child.communicate()
    return [Asked(**each) for each in json.loads(out.splitlines()[-1])]


def _others(what: str, rounds: Sequence[Round]) -> list[list[Asked]]:
    """All that the three asked in a phase, a list each round and tenant."""
    return [each[what][name] for each in rounds for name in OTHERS]


def _rows(what: str, rounds: Sequence[Round]) -> list[Row]:
    others, alone = _others(what, rounds), _others("alone", rounds)
    rows = [*_middle(what, rounds)]
    for share, target in ((0.5, None), (0.99, OF_QUIET)):
        first, total = _quantiles(others, share)
        first_alone, total_alone = _quantiles(alone, share)
        told = f"p{share * 100:.0f} of the three others {what}, against without it"
        rows.append(compare(f"first token, {told}", first, first_alone, "s", better="lower", target=target))
        rows.append(compare(f"whole answer, {told}", total, total_alone, "s", better="lower", target=target))
    refused = sum(not each.is_whole for asked in others for each in asked)
    rows.append(
        compare(f"the others' requests that failed {what}", 1 + refused, 1, "", better="lower", target=1.0)
    )
    return rows


def _middle(what: str, rounds: Sequence[Round]) -> list[Row]:
    """The same of the middle round by the quotient of its p99s, for first tokens and for whole answers."""
    pairs = [
        (_quantiles(_others(what, [each]), 0.99), _quantiles(_others("alone", [each]), 0.99))
        for each in rounds
    ]
    told = f"p99 of the three others {what}, against without it, in the middle round"
    rows = []
    for place, name in enumerate(("first token", "whole answer")):
        ours, alone = middle([(beside[place], quiet[place]) for beside, quiet in pairs])
        rows.append(compare(f"{name}, {told}", ours, alone, "s", better="lower", target=OF_QUIET))
    return rows


def _quantiles(asks: Sequence[Sequence[Asked]], share: float) -> tuple[float, float]:
    """Seconds to the first token and to the end, of those that were answered whole."""
    whole = [one for each in asks for one in each if one.is_whole]
    if not whole:
        raise stage.Broken("not one answer was whole")
    return quantile([one.first_s for one in whole], share), quantile([one.total_s for one in whole], share)


def _notes(options: argparse.Namespace, rounds: Sequence[Round]) -> list[str]:
    notes = [
        f"each of the three sends {options.rate:g} streams a second for {options.seconds:g} s, the one {TIMES} times",
        f"{options.rounds} rounds of the three phases in turns, taken as one sample",
        f"{NUM_TOKENS} tokens each; the quota is {STREAMS} streams at once",
        "one machine: five processes of clients, edge, gateway, node, engine and store share its cores",
    ]
    for what in rounds[0]:
        others = sorted((one for each in _others(what, rounds) for one in each), key=lambda one: one.total_s)
        notes.append(f"{what}, the others' medians in ms: {_where(others)}")
        notes.append(f"{what}, of their slowest hundredth: {_where(others[-math.ceil(len(others) / 100) :])}")
        if each := [one for asks in rounds for one in asks[what].get(HOG, [])]:
            whole = sum(one.is_whole for one in each)
            told = sum(one.status == HTTPStatus.TOO_MANY_REQUESTS for one in each)
            notes.append(f"{what}: of the one's {len(each)} requests {whole} were answered, {told} told 429")
            notes.append(f"{what}, {_chance(what, rounds)}")
    return notes


def _chance(what: str, rounds: Sequence[Round]) -> str:
    """How far the p99 of whole answers, against without it, is from one round or set of rounds to another."""
    by_round = " ".join(f"{_times(what, [each]):.2f}" for each in rounds)
    draws = random.Random(SEED)
    drawn = [_times(what, draws.choices(rounds, k=len(rounds))) for _ in range(RESAMPLES)]
    low, high = quantile(drawn, 0.05), quantile(drawn, 0.95)
    return f"whole answers at p99: {low:.2f}x to {high:.2f}x for 9 of 10 resamples of the rounds, which had {by_round}"


def _times(what: str, rounds: Sequence[Round]) -> float:
    return _quantiles(_others(what, rounds), 0.99)[1] / _quantiles(_others("alone", rounds), 0.99)[1]


def _where(asks: Sequence[Asked]) -> str:
    phases: dict[str, list[float]] = {}
    for one in asks:
        for name, ms in one.phases.items():
            phases.setdefault(name, []).append(ms)
    return ", ".join(f"{name} {median(each):.1f}" for name, each in phases.items())
