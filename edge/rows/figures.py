"""What an edge counts of the rows that come: taken, refused by kind and source, and how old the ones in force are."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from typing import TYPE_CHECKING

from wire.figures.metrics import one

if TYPE_CHECKING:
    from edge.rows.feed import Feed
    from wire.figures.metrics import Metrics, Reading


class FeedFigures:
    """The figures of one feed."""

    def __init__(self, feed: Feed, metrics: Metrics) -> None:
        self.metrics = metrics
        self._feed = feed
        self._kinds: Counter[str] = Counter()
        self._taken = metrics.counter(
            "nearfield_edge_rows_taken_total", "Rows that came into force.", "source"
        )
        self._refused = metrics.counter(
            "nearfield_edge_rows_refused_total", "Rows that were not taken.", "source", "code"
        )
        metrics.gauge("nearfield_edge_row_age_seconds", "Since each region was heard.", self._ages, "region")
        metrics.gauge("nearfield_edge_policy_seq", "Of the policy in force.", self._policy_seq)
        metrics.gauge(
            "nearfield_edge_rows_frozen", "1 while no row is taken.", lambda: one(float(feed.is_frozen))
        )

    def taken(self, source: str) -> None:
        """A row came into force."""
        self._taken.add(1, source)

    def refused(self, source: str, code: str) -> None:
        """A row was refused."""
        self._kinds[code] += 1
        self._refused.add(1, source, code)

    def refused_by_kind(self) -> dict[str, int]:
        """How many rows were refused, by code."""
        return dict(self._kinds)

    def _ages(self) -> Reading:
        ages = self._feed.ages(asyncio.get_running_loop().time())
        return [((region,), age_s) for region, age_s in ages.items() if math.isfinite(age_s)]

    def _policy_seq(self) -> Reading:
        policy = self._feed.snapshot.policy
        return one(None if policy is None else float(policy.seq))
