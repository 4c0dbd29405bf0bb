"""How full a host's engines are and what they counted, under the names that vLLM has for it."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

from inference.workers.counts.answers import MODEL
from inference.workers.counts.totals import TOTALS, whole

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inference.workers.host import Host
    from wire.figures.metrics import Labels, Metrics


def add_engine_gauges(metrics: Metrics, host: Host) -> None:
    """What vLLM calls running, waiting and KV usage, and the totals above; each by model."""
    for name, about in (
        ("running", "Being computed."),
        ("waiting", "Without a slot, or a turn before that."),
    ):
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
        sums[worker.revision.model] += whole(worker.stats.get(name))
    return (((model,), count) for model, count in sums.items())


def _usage(host: Host) -> Iterator[tuple[Labels, float]]:
    """A slot is all the room that its request may ever take: held slots are held room."""
    held, there = dict(_sums(host, "running")), Counter[str]()
    for worker in host.workers:
        there[worker.revision.model] += whole(worker.ready.get("slots"))
    return (((model,), held[model,] / slots) for model, slots in there.items() if slots)
