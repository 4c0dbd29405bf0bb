"""What one choice of a region costs: 3 to 100 regions, 10 to 10,000 models; and that more models cost nothing.

The edge's own `Chooser` over rows made of random figures: every model is in some regions, resident in few, and is
asked for in random order, so nothing is remembered from the request before. Rules, preferences and prompts long
enough to have an affinity are rows of their own.
"""

import argparse
import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import thread_time
from typing import TYPE_CHECKING, NamedTuple, cast

from bench.rows import Row, compare
from edge.choice.route import NOBODY, Asker, Chooser
from edge.relay.holdoff import Holdoffs
from edge.rows.feed import Feed
from regions.ask import Ask
from regions.health import HEALTHY, RegionHealth
from regions.map.policy import Rules
from regions.map.region import ModelRow, RegionRow, RolloutState, Tier
from regions.rows import Heard, Signers, Snapshot
from wire.http.heads import RequestHead

if TYPE_CHECKING:
    from edge.reach.region import Reach

TARGET_US = 50.0  # the issue's, for 100 regions and 10,000 models
NUM_ASKED = 400  # choices a round
NUM_ROUNDS = 7  # the best one counts: others shared the processor
WARM_SHARE = 0.3  # of a model's regions
NOW_S = 1.0
PATH = "/v1/chat/completions"


class World(NamedTuple):
    """So many regions and models; each model is in `spread` of the regions, at the least in one."""

    num_regions: int
    num_models: int
    spread: float


SIZES = (
    World(3, 10, 1.0),
    World(100, 100, 0.05),
    World(100, 10_000, 0.05),  # each model in five regions
    World(100, 10_000, 0.35),  # in 35: 350,000 offers, which no cache of a processor holds
)


class _Way(NamedTuple):
    rtt_ms: float
    health: RegionHealth = HEALTHY


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument(
        "--rounds", type=int, default=NUM_ROUNDS, help=f"rounds, the best counts ({NUM_ROUNDS})"
    )


def measure(options: argparse.Namespace, say: Callable[[str], None]) -> tuple[list[Row], list[str]]:
    """Rows and notes."""
    rows, us = [], {}
    for world in SIZES:
        say(f"{world.num_regions} regions, {world.num_models} models")
        chooser = chooser_of(world, Rules())
        us[world] = choice_us(chooser, world, options.rounds)
        rows.append(_row(f"{_words(world)}: one choice", us[world]))
        chooser = chooser_of(world, _rules(world))
        what = f"{_words(world)}: with residency, preference, affinity, against the budget"
        rich = rich_us(chooser, world, options.rounds)
        rows.append(compare(what, rich, TARGET_US, "us", better="lower"))
    few, many = us[SIZES[1]], us[SIZES[2]]
    rows.append(compare("100 times the models: time of a choice", many, few, "us", better="lower"))
    return rows, [
        f"best of {options.rounds} rounds of {NUM_ASKED} choices, models in random order, one process, no network",
        f"a model is resident in {WARM_SHARE:.0%} of its regions; what a row says is worked out once when it comes",
    ]


def chooser_of(world: World, rules: Rules, seed: int = 1) -> Chooser:
    """The edge's chooser over random rows."""
    rng = random.Random(seed)
    names = [f"r{number:03d}" for number in range(world.num_regions)]
    feed = Feed(Signers({}, "r000"), Path("nowhere"))
    feed.snapshot = Snapshot({name: Heard(_region(name, world, rng), b"", NOW_S) for name in names})
    feed.rules = rules
    ways = {name: _Way(rng.uniform(1.0, 250.0)) for name in names}
    return Chooser(feed, cast("Mapping[str, Reach]", ways), None, Holdoffs())


def _region(name: str, world: World, rng: random.Random) -> RegionRow:
    numbers = rng.sample(range(world.num_models), max(1, int(world.spread * world.num_models)))
    models = {model_name(number): _model(rng) for number in numbers}
    return RegionRow(name, 1, 1, models, 1e9, 4e9, 1e8, 0.5)


def _model(rng: random.Random) -> ModelRow:
    is_warm = rng.random() < WARM_SHARE
    tier = Tier.RESIDENT if is_warm else rng.choice((Tier.ORIGIN, Tier.REGION, Tier.HOST))
    running = rng.randrange(9) if is_warm else 0
    return ModelRow(
        "a" * 64, RolloutState.LIVE, tier, "generate", 10**9, 4096, running, 0, 8 if is_warm else 0, 0.1, 10.0
    )


def _rules(world: World) -> Rules:
    names = tuple(f"r{number:03d}" for number in range(world.num_regions))
    return Rules({"eu": names[:-1]}, {}, {"tenant:acme": ("eu",)}, names[:1])


def model_name(number: int) -> str:
    """Of the model with this number."""
    return f"org/m{number}"


def choice_us(chooser: Chooser, world: World, rounds: int, asker: Asker = NOBODY) -> float:
    """Microseconds of a choice, the best round's mean."""
    rng = random.Random(2)
    asks = [Ask(model_name(rng.randrange(world.num_models)), False, 100, 1) for _ in range(NUM_ASKED)]
    asks = [ask for ask in asks if _is_served(chooser, ask)]
    return min(_round_us(chooser, asks, asker) for _ in range(rounds))


def rich_us(chooser: Chooser, world: World, rounds: int) -> float:
    """The same for a tenant with a residency, who prefers two regions and sends 8 KiB."""
    prompt = json.dumps({"messages": [{"role": "user", "content": "x" * 8192}], "model": "org/m0"}).encode()
    headers = (("x-nearfield-prefer-region", "r000, r001"),)
    head = RequestHead("POST", PATH, PATH, "", headers, None, False, True, False)
    rng = random.Random(2)
    asks = [Ask(model_name(rng.randrange(world.num_models)), False, 2000, 1) for _ in range(NUM_ASKED)]
    asker = Asker("acme", head, prompt)
    asks = [ask for ask in asks if _is_served(chooser, ask)]
    return min(_round_us(chooser, asks, asker) for _ in range(rounds))


def _is_served(chooser: Chooser, ask: Ask) -> bool:
    return any(ask.model in heard.offers for heard in list(chooser.rows.values())[:-1])


def _round_us(chooser: Chooser, asks: Sequence[Ask], asker: Asker) -> float:
    began = thread_time()  # it waits for nothing: what a busy machine takes away is not the choice's
    for ask in asks:
        chooser.choose(ask, None, NOW_S, asker)
    return (thread_time() - began) / len(asks) * 1e6


def _row(what: str, us: float) -> Row:
    return compare(f"{what}, against the budget", us, TARGET_US, "us", better="lower", target=1.0)


def _words(world: World) -> str:
    return f"{world.num_regions} regions x {world.num_models:,} models, each in {world.spread:.0%}"
