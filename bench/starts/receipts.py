"""What a start's receipt is worth: how much of the client's clock it leaves out, and how far off the ETA was."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from bench.caller import Answer
from bench.rows import Row, compare
from deploy.report.phases import Breakdown, hop_of, whole

OF_WALL = 0.02  # the issue's: every start's phases sum to its wall time within 2 %
SEEN_MS = 0.5  # of a phase that takes longer by less nothing is said
OTHERS = ("net.", "unattr", "gateway.wake")  # the ways between hops, and what of a wake is no phase of it


def rows(answers: Sequence[Answer], what: str) -> list[Row]:
    """Of starts from one state, `what` for short; the ETA's row only where a start was waited for."""
    unknown = max(OF_WALL / 1e3, *(left_share(answer) for answer in answers))
    told = f"{what}: of the client's clock, what no hop's phases account for, worst of {len(answers)}"
    found = [compare(told, unknown, OF_WALL, "share", better="lower", target=1.0)]
    scores = [score for answer in answers if (score := eta(answer)) is not None]
    if scores:
        told = f"{what}: the gateway's ETA against what the start took, median of {len(scores)}"
        expected, took = (
            median(score[name] for score in scores) / 1e3 for name in ("expected_ms", "took_ms")
        )
        found.append(compare(told, expected, took, "s", better="lower"))
    return found


def notes(answers: Sequence[Answer], what: str) -> list[str]:
    """How far off each estimate was."""
    scores = [score for answer in answers if (score := eta(answer)) is not None]
    errors = [abs(each["expected_ms"] - each["took_ms"]) / max(1.0, each["took_ms"]) for each in scores]
    return (
        [f"{what}: ETA's error by start, of what it took: {[round(each, 2) for each in errors]}"]
        if errors
        else []
    )


def grown(small: Sequence[Answer], large: Sequence[Answer], what: str) -> str:
    """Of starts of two models: the phases that take longer for the large one, medians in ms, most first."""
    few, many = ([_phases(answer).phases_ms for answer in each] for each in (small, large))
    names = {name for phases in (*few, *many) for name in phases}
    spans = {name: (_median(few, name), _median(many, name)) for name in names}
    longer = sorted(spans, key=lambda name: spans[name][0] - spans[name][1])
    told = [
        f"{name} {spans[name][0]:.1f} and {spans[name][1]:.1f}"
        for name in longer
        if spans[name][1] - spans[name][0] >= SEEN_MS
    ]
    return f"{what}: {', '.join(told) or 'no phase'}"


def _median(phases: Sequence[Mapping[str, float]], name: str) -> float:
    return median(each.get(name, 0.0) for each in phases)


def _phases(answer: Answer) -> Breakdown:
    """By phases of all hops, on the client's clock from its request on."""
    hops = [hop for receipt in answer.receipts if (hop := hop_of(receipt)) is not None]
    return whole(hops, (answer.total_s - answer.connect_s) * 1e3)


def left_share(answer: Answer) -> float:
    """The share of the client's clock, from its request on, that is in no phase of any hop."""
    found = _phases(answer)
    known_ms = sum(ms for name, ms in found.phases_ms.items() if not name.startswith(OTHERS))
    return abs(1 - known_ms / found.wall_ms)


def eta(answer: Answer) -> dict[str, Any] | None:
    """The gateway's estimate and what came of it; None if nothing was started."""
    return next((receipt["eta"] for receipt in answer.receipts if receipt.get("eta")), None)
