"""Runs the further arms that were asked for, one after another; one that cannot run is said, and the others go on."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.faults import ConfigError, NotLive, RoleFailed
from deploy.report.more.bench import Bench
from deploy.report.more.ceilings import CannotRead, measure_ceilings
from deploy.report.more.found import Found
from deploy.report.more.gaps import measure_gaps
from deploy.report.more.herd import measure_herd
from deploy.report.more.places import UnknownDistance, measure_places
from deploy.report.more.sizes import measure_sizes
from deploy.report.more.split import SplitPlan, measure_split
from deploy.report.more.terms import Terms
from deploy.report.more.wanted import More, Wanted
from deploy.report.probe import NotSetError, StatusError
from deploy.trust.credentials import Credentials
from storage.client.sdk import StoreError

CONFIG = "nearfield.toml"
NEAR_BYTES_PER_S = (
    1e9  # where no region measured its own store in this run: the figure that choices start from
)
STORE_RTT_MS = 90.0  # where the price file knows no distance from the region: two sides of an ocean
NOT_RUN = (
    NotSetError,
    StatusError,
    StoreError,
    UnknownDistance,
    CannotRead,
    ConfigError,
    RoleFailed,
    NotLive,
    OSError,
)
"""What an arm may end with: the rest of the report stands without it."""

Step = Callable[[], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Order:
    """What is wanted and what it needs; `near` are bytes a second from each region's own store."""

    wanted: Wanted
    terms: Terms
    credentials: Credentials | None
    seed: int
    near: Mapping[str, float] = field(default_factory=dict)


async def measure_more(bench: Bench, order: Order) -> Found:
    """Everything that was asked for."""
    values: dict[str, Any] = {}
    failures: dict[str, str] = {}
    for name, step in _steps(bench, order).items():
        try:
            values[name] = await step()
        except NOT_RUN as error:
            failures[name] = str(error) or type(error).__name__
    return Found(**values, failures=failures)


def _steps(bench: Bench, order: Order) -> dict[str, Step]:
    """The arms by the field of `Found` that each fills."""
    wanted = order.wanted
    made: dict[str, Step] = {}
    if More.PLACES in wanted and len(bench.pins) > 1:
        made["places"] = lambda: measure_places(bench, order.terms.rtt_ms, wanted.num_each)
    if More.HERD in wanted:
        made["herd"] = lambda: measure_herd(bench, wanted.herd)
    if More.GAPS in wanted:
        made["gaps"] = lambda: measure_gaps(bench, wanted.gaps_s)
    if More.SIZES in wanted:
        made["loads"] = lambda: measure_sizes(bench, wanted.num_each)
        made |= _ceilings(bench, order.credentials)
    if More.SPLIT in wanted and order.credentials is not None:
        made["split"] = _split(bench, order, order.credentials)
    return made


def _ceilings(bench: Bench, credentials: Credentials | None) -> dict[str, Step]:
    """Only where the fleet's configuration lies: elsewhere stores are out of reach, and nothing is said of them."""
    path = Path(credentials.state) / CONFIG if credentials else None
    if path is None or not path.is_file():
        return {}
    return {"ceilings": lambda: measure_ceilings(path, bench.question.model, tuple(bench.pins))}


def _split(bench: Bench, order: Order, credentials: Credentials) -> Step:
    region = bench.home or bench.far
    far = [ms for pair, ms in order.terms.rtt_ms.items() if region in pair]
    rtt_ms = min(
        far, default=STORE_RTT_MS
    )  # the nearest other region: the kindest case for a store elsewhere
    plan = SplitPlan(region, rtt_ms, order.near.get(region, NEAR_BYTES_PER_S))
    return lambda: measure_split(credentials, bench.question, plan, order.seed, bench.say)
