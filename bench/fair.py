"""One tenant at fifty times the load of three others: what those see of it, through edge, gateway, node and engine.

Each of the three sends streams at a steady rate: alone, then beside the one, and then beside the one with a quota.
"""

import argparse
import asyncio
import json
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
from bench.rows import Row, compare, quantile
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

Say = Callable[[str], None]
Asks = dict[str, list[Asked]]


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--seconds", type=float, default=12.0, help="of each of the three loads (12)")
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
        quiet = await _measured(running, {name: free[name] for name in OTHERS}, options, "quiet", say)
        beside = await _measured(running, free, options, "beside", say)
        within = await _measured(running, free | {HOG: bounded}, options, "within", say)
    rows = [*_rows("beside one at 50x", beside, quiet), *_rows("beside it with a quota", within, quiet)]
    return rows, _notes(options, {"alone": quiet, "beside": beside, "with a quota": within})


def _key(running: Running, tenant: str, streams: int) -> str:
    quota = {"requests_per_min": 0, "tokens_per_min": 0, "streams": streams, "weight": 1}
    order = {"tenant": tenant, "name": "bench", "scopes": ["infer"], "quota": quota}
    return str(Client(running.credentials, admin=True).post("/nearfield/keys", order).body["key"])


async def _measured(
    running: Running, keys: dict[str, str], options: argparse.Namespace, prompts: str, say: Say
) -> Asks:
    await asyncio.sleep(SETTLE_S)
    asks = await _loads(running, keys, options.seconds, options.rate, prompts)
    for name, each in asks.items():
        counts = dict(Counter(one.status for one in each))
        say(
            f"{name}: {counts}, p50 {_quantiles([each], 0.5)[1]:.3f} s, p99 {_quantiles([each], 0.99)[1]:.3f} s"
        )
    return asks


async def _loads(running: Running, keys: dict[str, str], seconds: float, rate: float, prompts: str) -> Asks:
    """Everyone's clients at once, each tenant's in a process of its own, at the same moments in each phase."""
    address = urlsplit(running.credentials.base_url)
    loads = {}
    for number, (name, key) in enumerate(keys.items()):
        per_s = rate * TIMES if name == HOG else rate
        where = (address.hostname or "", address.port or 443, str(running.credentials.ca), key, MODEL)
        loads[name] = Load(*where, per_s, seconds, NUM_TOKENS, SEED + number, prompts)
    found = await asyncio.gather(*map(_child, loads.values()))
    return dict(zip(loads, found, strict=True))


async def _child(load: Load) -> list[Asked]:
    command = (sys.executable, "-m", "bench.fair_load", json.dumps(asdict(load)))
    child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await child.communicate()
    return [Asked(**each) for each in json.loads(out.splitlines()[-1])]


def _rows(what: str, asks: Asks, quiet: Asks) -> list[Row]:
    others, alone = [asks[name] for name in OTHERS], [quiet[name] for name in OTHERS]
    rows = []
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


def _quantiles(asks: Sequence[Sequence[Asked]], share: float) -> tuple[float, float]:
    """Seconds to the first token and to the end, of those that were answered whole."""
    whole = [one for each in asks for one in each if one.is_whole]
    if not whole:
        raise stage.Broken("not one answer was whole")
    return quantile([one.first_s for one in whole], share), quantile([one.total_s for one in whole], share)


def _notes(options: argparse.Namespace, phases: dict[str, Asks]) -> list[str]:
    notes = [
        f"each of the three sends {options.rate:g} streams a second for {options.seconds:g} s, the one {TIMES} times",
        f"{NUM_TOKENS} tokens each; the quota is {STREAMS} streams at once",
        "one machine: five processes of clients, edge, gateway, node, engine and store share its cores",
    ]
    for phase, asks in phases.items():
        notes.append(f"{phase}, the others' medians in ms: {_where([asks[name] for name in OTHERS])}")
        if (each := asks.get(HOG)) is not None:
            whole = sum(one.is_whole for one in each)
            told = sum(one.status == HTTPStatus.TOO_MANY_REQUESTS for one in each)
            notes.append(f"{phase}: of the one's {len(each)} requests {whole} were answered, {told} told 429")
    return notes


def _where(asks: Sequence[Sequence[Asked]]) -> str:
    phases: dict[str, list[float]] = {}
    for one in (one for each in asks for one in each):
        for name, ms in one.phases.items():
            phases.setdefault(name, []).append(ms)
    return ", ".join(f"{name} {median(each):.1f}" for name, each in phases.items())
