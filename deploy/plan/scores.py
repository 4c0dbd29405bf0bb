"""Past predictions and what came of them: a line each in the state folder, the newest ones kept."""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from itertools import accumulate
from pathlib import Path
from statistics import fmean

FILE_NAME = "predictions.jsonl"
KEPT = 200
"""Of all regions and models: weeks of pushes, and small enough to read at every plan."""
LEAST_S = 0.001
LEAST_UPLOAD_BYTES = 1024 * 1024
"""A smaller upload is round trips, and says nothing of the rate."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One push in one region: seconds until live after the upload, foretold and seen; and what its upload gave.

    `start_s` is what bytes and start make up, by the figures that the region had measured when the push was over; the
    rest was commit, probe and canary. `predicted_s` was foretold, between `low_s` and `high_s` (0: no span was).
    """

    at: float  # Unix time
    model: str
    region: str
    start_s: float
    predicted_s: float
    took_s: float
    uploaded_bytes: int
    upload_s: float
    low_s: float = 0.0
    high_s: float = 0.0

    @property
    def is_within(self) -> bool:
        """Whether it came as foretold."""
        return self.low_s <= self.took_s <= self.high_s

    @property
    def error(self) -> float:
        """How far beyond the span, as a share of what it took; where no span was foretold, how far off."""
        low_s, high_s = (self.low_s, self.high_s) if self.high_s else (self.predicted_s, self.predicted_s)
        return max(0.0, low_s - self.took_s, self.took_s - high_s) / max(self.took_s, LEAST_S)


@dataclass(frozen=True, slots=True)
class Score:
    """How good predictions were: `num_within` came as foretold, `error` is the mean share off.

    `bias` is above 0 where things took longer than the middle of the span.
    """

    num: int
    num_within: int
    error: float
    bias: float


def score(past: Iterable[Prediction], region: str) -> Score | None:
    """Of one region; None before its first."""
    mine = [each for each in past if each.region == region]
    if not mine:
        return None
    bias = fmean((each.took_s - each.predicted_s) / max(each.took_s, LEAST_S) for each in mine)
    return Score(len(mine), sum(each.is_within for each in mine), fmean(each.error for each in mine), bias)


def upload_bytes_per_s(past: Iterable[Prediction]) -> float | None:
    """What uploads from here went at: the rate that half of all bytes went at or faster; None before the first.

    By bytes, since a push of a few megabytes is mostly round trips: many of them would say that a large one takes
    minutes which takes seconds.
    """
    told = [each for each in past if each.uploaded_bytes >= LEAST_UPLOAD_BYTES and each.upload_s > 0]
    half = sum(each.uploaded_bytes for each in told) / 2
    by_rate = sorted((each.uploaded_bytes / each.upload_s, each.uploaded_bytes) for each in told)
    sums = accumulate(num_bytes for _, num_bytes in by_rate)
    return next((rate for (rate, _), so_far in zip(by_rate, sums, strict=True) if so_far >= half), None)


def load(state: Path) -> tuple[Prediction, ...]:
    """The past of this state folder; a line that is none of ours is passed over."""
    try:
        lines = (state / FILE_NAME).read_text().splitlines()
    except FileNotFoundError:
        return ()
    return tuple(found for found in map(_read, lines) if found is not None)


def _read(line: str) -> Prediction | None:
    try:
        value = json.loads(line)
        known = {spec.name: value[spec.name] for spec in fields(Prediction) if spec.name in value}
        found = Prediction(**known)
        is_sound = (
            min(found.start_s, found.predicted_s, found.took_s, found.upload_s, found.uploaded_bytes) >= 0
        )
    except (ValueError, TypeError, KeyError):
        return None
    return found if is_sound else None


def keep(state: Path, new: Iterable[Prediction]) -> None:
    """Write these behind the past ones; the file is replaced whole, so that it is never half written."""
    lines = [json.dumps(asdict(each), sort_keys=True) for each in (*load(state), *new)][-KEPT:]
    fresh = state / f".{FILE_NAME}.{os.getpid()}"
    fresh.write_text("".join(f"{line}\n" for line in lines))
    fresh.replace(state / FILE_NAME)
