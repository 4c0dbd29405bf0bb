"""Whether what nodes wrote down is what their engines computed: record by record, order by order. Pure.

A record's figures came with the engine's last message of each order; the engine's own log has them from the steps.
Both are compared to the unit, and so is each engine's sum of its steps with what the orders got of them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from regions.usage.record import GENERATING
from regions.usage.sums import once

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from regions.usage.record import Record

Figures = tuple[int, int, int]
"""Tokens computed, tokens sampled, microseconds."""
NAMES: Final = ("computed_tokens", "sampled_tokens", "device_us")
NOTHING: Final = (0, 0, 0)
_GENERATED = re.compile(r'^nearfield_generation_tokens_total\{model_name="([^"]*)"\} (\S+)$', re.MULTILINE)


@dataclass(slots=True)
class EngineLog:
    """What one engine wrote down itself; `total_us` of all its steps once it is gone and has said so."""

    orders: dict[str, Figures] = field(default_factory=dict)
    total_us: int | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """Two figures of one thing that are not the same."""

    node: str
    request: str
    what: str
    recorded: int
    engine: int


@dataclass(frozen=True, slots=True)
class Running:
    """Of a node that answers: its life's name, orders of requests that are not written down yet, its /metrics."""

    node: str
    boot: str
    open_orders: frozenset[tuple[str, str]]
    page: str = ""


Logs = dict[tuple[str, str], EngineLog]
"""By node and engine."""


def differences(records: Iterable[Record], logs: Logs, running: Iterable[Running] = ()) -> list[Difference]:
    """All of them; an empty list is what there should be."""
    known, nodes = once(records), list(running)
    booked = {(each.node, each.log, order) for each in known for order in each.order_ids()}
    booked |= {(node.node, log, order) for node in nodes for log, order in node.open_orders}
    return [
        *(found for record in known if record.is_ours for found in _of_record(record, logs)),
        *_unbooked(logs, booked),
        *_lossy(logs),
        *(found for node in nodes for found in _of_metrics(node, known)),
    ]


def _of_record(record: Record, logs: Logs) -> Iterator[Difference]:
    log = logs.get((record.node, record.log), EngineLog())
    said = summed(log.orders.get(order, NOTHING) for order in record.order_ids())
    recorded = record.computed_tokens, record.sampled_tokens, record.device_us
    for name, mine, engine in zip(NAMES, recorded, said, strict=True):
        if mine != engine:
            yield Difference(record.node, record.request, name, mine, engine)
    if _is_off(record, said[1]):
        yield Difference(record.node, record.request, "completion_tokens", record.completion_tokens, said[1])


def _is_off(record: Record, sampled: int) -> bool:
    """A whole answer has what was sampled; one that was ended by a stop string or its client may have less."""
    own = record.completion_tokens - record.resumed_tokens
    is_whole = record.kind in GENERATING and record.outcome == "finished"
    return own != sampled if is_whole else own > sampled


def _unbooked(logs: Logs, booked: set[tuple[str, str, str]]) -> Iterator[Difference]:
    for (node, name), log in logs.items():
        for order, figures in log.orders.items():
            if (node, name, order) not in booked:
                yield Difference(node, f"{name}:{order}", "not written down", 0, figures[2])


def _lossy(logs: Logs) -> Iterator[Difference]:
    for (node, name), log in logs.items():
        shared_us = summed(log.orders.values())[2]
        if log.total_us is not None and log.total_us != shared_us:
            yield Difference(node, name, "steps", shared_us, log.total_us)


def _of_metrics(node: Running, records: Iterable[Record]) -> Iterator[Difference]:
    """The counter of tokens that this node's /metrics has, and the records of its life; only while nothing runs."""
    if node.open_orders:
        return
    made: dict[str, int] = defaultdict(int)
    for record in records:
        if record.node == node.node and record.is_ours and record.log.startswith(f"{node.boot}-"):
            made[record.model] += record.completion_tokens
    counted = {model: int(float(value)) for model, value in _GENERATED.findall(node.page)}
    for model in sorted(made.keys() | counted.keys()):
        if made[model] != counted.get(model, 0):
            yield Difference(
                node.node, model, "/metrics generation tokens", made[model], counted.get(model, 0)
            )


def summed(figures: Iterable[Figures]) -> Figures:
    """The sum, figure by figure."""
    computed, sampled, us = 0, 0, 0
    for each in figures:
        computed, sampled, us = computed + each[0], sampled + each[1], us + each[2]
    return computed, sampled, us


def totals(
    records: Iterable[Record], logs: Logs, running: Iterable[Running] = ()
) -> dict[str, dict[str, int]]:
    """Both sides' sums, to be shown beside each other; without requests that still run."""
    opened = {(node.node, log, order) for node in running for log, order in node.open_orders}
    ours = [each for each in once(records) if each.is_ours]
    recorded = summed((each.computed_tokens, each.sampled_tokens, each.device_us) for each in ours)
    engines = summed(
        figures
        for (node, name), log in logs.items()
        for order, figures in log.orders.items()
        if (node, name, order) not in opened
    )
    return {
        "recorded": dict(zip(NAMES, recorded, strict=True)),
        "engines": dict(zip(NAMES, engines, strict=True)),
    }
