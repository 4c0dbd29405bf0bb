"""Past predictions and what came of them: a line each in the state folder, the newest ones kept."""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import fmean, median

FILE_NAME = "predictions.jsonl"
KEPT = 200
"""Of all regions and models: weeks of pushes, and small enough to read at every plan."""
LEAST_S = 0.001
LEAST_UPLOAD_BYTES = 1024 * 1024
"""A smaller upload is round trips, and says nothing of the rate."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One push in one region: seconds until live after the upload, foretold and seen; and what its upload gave.

    `start_s` is that part of the foretold which bytes and start make up; the rest was learned from pushes before.
    """

    at: float  # Unix time
    model: str
    region: str
    start_s: float
    predicted_s: float
    took_s: float
    uploaded_bytes: int
    upload_s: float

    @property
    def error(self) -> float:
        """How far off, as a share of what it took, as a gateway scores its own estimates."""
        return abs(self.predicted_s - self.took_s) / max(self.took_s, LEAST_S)


@dataclass(frozen=True, slots=True)
class Score:
    """How good predictions were: `error` is the mean share off; `bias` is above 0 where things took longer.

    `extra_s` is what pushes took beside their bytes and their start (commit, probe, canary), the median: the next plan
    has it in.
    """

    num: int
    error: float
    bias: float
    extra_s: float


def score(past: Iterable[Prediction], region: str) -> Score | None:
    """Of one region; None before its first."""
    mine = [each for each in past if each.region == region]
    if not mine:
        return None
    bias = fmean((each.took_s - each.predicted_s) / max(each.took_s, LEAST_S) for each in mine)
    extra_s = max(0.0, median(each.took_s - each.start_s for each in mine))
    return Score(len(mine), fmean(each.error for each in mine), bias, extra_s)


def upload_bytes_per_s(past: Iterable[Prediction]) -> float | None:
    """What uploads from here went at, the median; None before the first of any size."""
    told = [each for each in past if each.uploaded_bytes >= LEAST_UPLOAD_BYTES and each.upload_s > 0]
    told = [each for each in past if each.uploaded_bytes >= LEAST_UPLOAD_BYTES and each.upload_s > 0]
    rates = [each.uploaded_bytes / each.upload_s for each in told]
    return median(rates) if rates else None


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
        found = Prediction(**{spec.name: value[spec.name] for spec in fields(Prediction)})
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
