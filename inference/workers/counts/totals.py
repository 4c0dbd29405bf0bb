"""What engines count themselves, summed over those that run and those that are gone."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from inference.workers.worker import Worker
    from wire.figures.metrics import Labels

TOTALS: Final = {
    "preemptions": ("num_preemptions_total", "Requests that gave their slot to a more urgent one."),
    "drafts": ("spec_decode_num_draft_tokens_total", "Tokens that were computed as guesses."),
    "drafts_right": ("spec_decode_num_accepted_tokens_total", "Of those, the ones that were right."),
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
            counts[model] += whole(stats.get(name))

    def read(self, name: str, workers: tuple[Worker, ...]) -> Iterator[tuple[Labels, float]]:
        """One of `TOTALS` for each model that has or had an engine."""
        sums = Counter(self._gone[name])
        for worker in workers:
            sums[worker.revision.model] += whole(worker.stats.get(name))
        return (((model,), count) for model, count in sums.items())


def whole(value: object) -> int:
    """A count that an engine said; 0 for what it did not say."""
    return value if isinstance(value, int) else 0
