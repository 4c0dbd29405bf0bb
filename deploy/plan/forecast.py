"""When a push will be live in a region: a span, as wide as what it rests on. Pure.

Bytes and a start are reckoned by what the region measured. What comes besides (commit, pointers, probes, canary) is
learned from pushes; before the first there are the usual figures below, and nothing says that this platform is usual.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from deploy.plan.scores import Prediction

LOOKED_AT = 8
"""Of a region's past pushes: a link or a machine may be another by now."""
USUAL_EXTRA_S = 0.5
USUAL_TRIPS = 16
"""Round trips to the home region in one push; at simulated 90 and 150 ms one of five files took 14 to 18 of them."""
USUAL_COMMIT_BYTES_PER_S = 100e6
"""Of the verified read at home; 407 MB came to 35 MB/s on two cores that had four others' work to do."""
SMALL_BYTES = 16 * 1024 * 1024
ALIKE_FACTOR = 8
"""A push of many times the bytes is of another kind: what the small ones took beside a start says little of it."""
USUAL_FACTOR = 3.0
"""Each way, while nothing is known: a host's start is 0.06 to 2 s, by model and machine."""
LEAST_S = 0.001


@dataclass(frozen=True, slots=True)
class Span:
    """Seconds: what is expected, and between which bounds."""

    low_s: float
    middle_s: float
    high_s: float


def alike(past: Iterable[Prediction], region: str, num_bytes: int) -> list[Prediction]:
    """The pushes to a region that sent about as much."""
    wanted = max(num_bytes, SMALL_BYTES)
    return [
        each
        for each in past
        if each.region == region
        and 1 / ALIKE_FACTOR <= max(each.uploaded_bytes, SMALL_BYTES) / wanted <= ALIKE_FACTOR
    ]


def usual(start_s: float, home_rtt_s: float, num_bytes: int = 0) -> Span:
    """Before the first push of its kind from here, of `num_bytes`; `home_rtt_s` is 0 for the home region itself."""
    commit_s = num_bytes / USUAL_COMMIT_BYTES_PER_S
    middle_s = start_s + USUAL_EXTRA_S + commit_s + USUAL_TRIPS * home_rtt_s
    return Span(middle_s / USUAL_FACTOR, middle_s, middle_s * USUAL_FACTOR)


def learned(start_s: float, past: Iterable[Prediction]) -> Span:
    """By the newest pushes to the region, at least one: as far apart as they were, and more while they are few."""
    newest = list(past)[-LOOKED_AT:]
    extra_s = max(0.0, median(each.took_s - each.start_s for each in newest))
    middle_s = start_s + extra_s
    ratios = [each.took_s / max(each.start_s + extra_s, LEAST_S) for each in newest]
    slack = 1 + 1 / len(newest)
    return Span(middle_s * min(1.0, *ratios) / slack, middle_s, middle_s * max(1.0, *ratios) * slack)
