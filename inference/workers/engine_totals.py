"""What engines count themselves, summed over those that run and those that are gone, and how full they are."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Final

from inference.workers.answers import MODEL

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from inference.workers.host import Host
    from inference.workers.worker import Worker
    from wire.metrics import Labels, Metrics

TOTALS: Final = {
    "preemptions": ("num_preemptions_total", "Requests that gave their slot to a more urgent one."),
    "prefix_queries": ("prefix_cache_queries_total", "Tokens of prompts that were looked up."),
    "prefix_hits": ("prefix_cache_hits_total", "Of those, the ones that were kept."),
}
"""An engine's own counts (its `stats`), under the names that vLLM has for them."""


class EngineTotals:
    """Counts of engines by model; those of an engine that ends stay, so that no sum ever falls."""

    def __init__(self) -> None:
        self._gone: dict[str, Counter[str]] = {name: Counter() for name in TOTALS}

    def keep(self, model: str, stats: Mapping[str, object]) -> None:
        """An engine of this model has ended, and these are its last figures."""
        for name, counts in self._gone.items():
            counts[model] += _whole(stats.get(name))

    def read(self, name: str, workers: tuple[Worker, ...]) -> Iterator[tuple[Labels, float]]:
        """One of `TOTALS` for each model that has or had an engine."""
        sums = Counter(self._gone[name])
        for worker in workers:
            sums[worker.revision.model] += _whole(worker.stats.get(name))
        return (((model,), count) for model, count in sums.items())


def add_engine_gauges(metrics: Metrics, host: Host) -> None:
    """What vLLM calls running, waiting and KV usage, and the totals above; each by model."""
    for name, about in (("running", "Being computed."), ("waiting", "Without a slot.")):
        metrics.gauge(f"nearfield_num_requests_{name}", about, partial(_sums, host, name), MODEL)
    metrics.gauge(
        "nearfield_kv_cache_usage_perc",
        "Of the room for keys and values, the share that requests hold; 1 is full.",
        partial(_usage, host),
        MODEL,
    )
    for name, (said, about) in TOTALS.items():
        metrics.total(f"nearfield_{said}", about, partial(_total, host, name), MODEL)


def _total(host: Host, name: str) -> Iterator[tuple[Labels, float]]:
    return host.totals.read(name, host.workers)


def _sums(host: Host, name: str) -> Iterator[tuple[Labels, float]]:
    sums: Counter[str] = Counter()
    for worker in host.workers:
        sums[worker.revision.model] += _whole(worker.stats.get(name))
    return (((model,), count) for model, count in sums.items())


def _usage(host: Host) -> Iterator[tuple[Labels, float]]:
    """A slot is all the room that its request may ever take: held slots are held room."""
    held, there = dict(_sums(host, "running")), Counter[str]()
    for worker in host.workers:
        there[worker.revision.model] += _whole(worker.ready.get("slots"))
    return (((model,), held[model,] / slots) for model, slots in there.items() if slots)


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0
