"""What a region's rows cost by the number of its models: bytes said, and processor time at the gateway and at the edge.

A whole row (in its parts), a beat in which nothing changed, and changes of 1, 100 and 500 models, each made, signed,
verified and folded by the real code in one process without a network. Beside each: the whole row, which a region
without changes would have to say each time.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from time import thread_time
from typing import NamedTuple

from bench.rows import Row, compare
from regions.gateway.journal import Journal
from regions.map.region import ModelRow, RegionRow, RolloutState, Tier
from regions.rows import Signers, Snapshot, fold, public_bytes, signing_key

NUM_MODELS = 10_000
NUM_ROUNDS = 3  # the best one counts: others shared the processor
CHANGED = (0, 1, 100, 500)
KEY = signing_key(b"\1" * 32)
SIGNERS = Signers.of({"iad": public_bytes(KEY)}, "iad")


class Cost(NamedTuple):
    """Of one thing said: bytes, and ms at either end."""

    num_bytes: float
    said_ms: float
    folded_ms: float


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--models", type=int, default=NUM_MODELS, help=f"of one region ({NUM_MODELS})")


def measure(options: argparse.Namespace, say: Callable[[str], None]) -> tuple[list[Row], list[str]]:
    """Rows and notes."""
    row = region_row(options.models)
    say(f"a row of {options.models} models")
    whole = best(lambda: cost(Journal(KEY), row, Snapshot()))
    rows = []
    for num in CHANGED:
        say(f"{num} of them changed")
        ours = best(partial(change, row, num))
        rows += _rows(f"{num} of {options.models:,} models changed", ours, whole)
    return rows, [
        f"best of {NUM_ROUNDS} rounds, one process, no network; beside each figure that of the whole row"
    ]


def region_row(num_models: int) -> RegionRow:
    """A region whose models sleep in its store."""
    models = {
        f"organisation-{n % 200}/model-{n:05d}-instruct": ModelRow(
            f"{n:064x}",
            RolloutState.LIVE,
            Tier.REGION,
            "generate",
            16 * 10**9 + n,
            8192,
            pushed_s=1_790_000_000 + n,
        )
        for n in range(num_models)
    }
    return RegionRow("iad", 1, 1, models, 1e9, 4e9, 1e8, 0.5)


def change(row: RegionRow, num: int) -> Cost:
    """Of the row after `row` in which so many models are awake and at work."""
    journal = Journal(KEY)
    journal.say(row)
    known = Snapshot()
    for line in journal.after(0):
        known = fold(known, line, SIGNERS, now=1.0, source="iad")
    awake = {
        name: replace(
            row.models[name], tier=Tier.RESIDENT, running=3, slots=16, prefill_ms_per_token=0.2, step_ms=11.1
        )
        for name in list(row.models)[:num]
    }
    return cost(journal, replace(row, seq=2, models={**row.models, **awake}), known)


def cost(journal: Journal, row: RegionRow, known: Snapshot) -> Cost:
    """Of saying `row` to an edge that knows what was said before."""
    seen = journal.row.seq if journal.row is not None else 0
    began = thread_time()
    journal.say(row)
    lines = journal.after(seen)
    said = thread_time()
    for line in lines:
        known = fold(known, line, SIGNERS, now=2.0, source="iad")
    folded = thread_time()
    return Cost(sum(map(len, lines)), (said - began) * 1e3, (folded - said) * 1e3)


def best(measured: Callable[[], Cost]) -> Cost:
    """The least of each figure."""
    costs = [measured() for _ in range(NUM_ROUNDS)]
    return Cost(*map(min, zip(*costs, strict=True)))


def _rows(what: str, ours: Cost, whole: Cost) -> list[Row]:
    return [
        compare(f"{what}: bytes", ours.num_bytes, whole.num_bytes, "B", better="lower"),
        compare(f"{what}: made and signed", ours.said_ms, whole.said_ms, "ms", better="lower"),
        compare(f"{what}: verified and folded", ours.folded_ms, whole.folded_ms, "ms", better="lower"),
    ]
