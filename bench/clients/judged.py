"""Whether the report's client and guidellm agree, by what both saw in each round: rows and notes. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from bench import stage
from bench.clients.agreement import MIN_RUNS, Agreement
from bench.clients.guide import Figures
from bench.clients.metronome import FIRST_S
from bench.rows import Row
from deploy.report.measure import MAX_TOKENS

BUDGET_S = 270.0  # of all rounds: with the platform's start and end the command is over within five minutes


@dataclass(frozen=True, slots=True)
class Round:
    """Ours and guidellm, each request on a connection of its own; and ours on one that is kept."""

    ours: Figures
    theirs: Figures
    kept: Figures


Rounds = Sequence[Round]


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found: each round's figures, those on the metronome, and the open loop's."""

    rounds: Rounds
    own: Rounds
    opened: Figures
    opened_per_s: float


def judged(found: Measured, num_runs: int, num_requests: int) -> tuple[list[Row], list[str]]:
    """A row of each figure, that of the first token judged, and the notes. Raises: Broken with too few rounds."""
    if len(found.rounds) < MIN_RUNS:
        raise stage.Broken(f"{len(found.rounds)} rounds fitted in {BUDGET_S:g} s: no interval")
    given = (
        f"{num_requests} requests of each client in each, {MAX_TOKENS} tokens, warm, each on a new connection"
    )
    opened = (
        f"first token {median(found.opened.first_ms):.1f} ms in the middle, n = {len(found.opened.first_ms)}"
    )
    notes = [
        f"{len(found.rounds)} of {num_runs} rounds fitted in {BUDGET_S:g} s, {given}",
        "intervals are 95 %, over the rounds' medians (Student's t): requests of one round share their minute",
        f"the report's warm arm beside it, at random times, {found.opened_per_s:.1f} a second: {opened}",
        _kept(found.rounds),
        *_alone(found.own),
        f"between two requests guidellm took {_pause_ms(found.rounds):.0f} ms, and ours waited as long",
    ]
    rows = [_row(part, found.rounds, num_runs, notes) for part in PARTS]
    return rows, notes


def _pause_ms(rounds: Rounds) -> float:
    return 1000 * median(each.theirs.pause_s for each in rounds)


def _kept(rounds: Rounds) -> str:
    """What a connection of its own costs a request, by the same client."""
    seen = Agreement.of([(each.kept.first_ms, each.ours.first_ms) for each in rounds])
    return f"ours on a kept connection, the report's way: first token {seen.ours}; a new one takes {seen.apart} longer"


def _alone(own: Rounds) -> list[str]:
    """What the clients add where nothing else computes."""
    if not own:
        return ["no time was left for the metronome"]
    sides = [each.ours for each in own], [each.theirs for each in own]
    ours, theirs = (median(ms - 1000 * FIRST_S for each in side for ms in each.first_ms) for side in sides)
    return [
        f"on the metronome, beside which nothing computes, ours adds {ours:.2f} ms, guidellm {theirs:.2f} ms"
    ]


@dataclass(frozen=True, slots=True)
class Part:
    """A figure of each request; `adds` is what its client added to it, None where that is no question."""

    name: str
    of: Callable[[Figures], Sequence[float]]
    adds: Callable[[Figures], Sequence[float]] | None = None
    is_judged: bool = False


def _less(clock: Sequence[float], server: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(clock, server, strict=True)]


def _adds_to_first(seen: Figures) -> list[float]:
    return _less(seen.first_ms, seen.told.first_ms)


def _adds_to_whole(seen: Figures) -> list[float]:
    return _less(seen.whole_ms, seen.told.whole_ms)


PARTS = (
    Part("first token", lambda seen: seen.first_ms, _adds_to_first, is_judged=True),
    Part("whole answer", lambda seen: seen.whole_ms, _adds_to_whole),
    Part("first token by the edge's receipts", lambda seen: seen.told.first_ms),
    Part("first token in the node, by its receipts", lambda seen: seen.told.node_ms),
    Part("what the client adds to the first token", _adds_to_first),
)


def _row(part: Part, rounds: Rounds, num_runs: int, notes: list[str]) -> Row:
    seen = Agreement.of(_samples(rounds, part.of))
    added = Agreement.of(_samples(rounds, part.adds)) if part.adds else None
    agree = added is None or seen.apart.holds(added.apart.mean)
    notes.append(_said(part, seen, added, agree=agree))
    holds = not part.is_judged or (agree and len(rounds) == num_runs)
    ratio = seen.theirs.mean / seen.ours.mean
    target = 1.0 if part.is_judged else None
    told = f"{part.name}, mean of the rounds' medians"
    return Row(told, seen.ours.mean, seen.theirs.mean, "ms", ratio, target, holds)


Pairs = list[tuple[Sequence[float], Sequence[float]]]


def _samples(rounds: Rounds, of: Callable[[Figures], Sequence[float]]) -> Pairs:
    return [(of(each.ours), of(each.theirs)) for each in rounds]


def _said(part: Part, seen: Agreement, added: Agreement | None, *, agree: bool) -> str:
    apart = f"{part.name}: ours {seen.ours}, guidellm {seen.theirs}; guidellm minus ours, round by round, {seen.apart}"
    if added is None:
        return apart
    verdict = "they agree" if agree else "they DO NOT agree: the server took longer for one of them"
    return f"{apart}, of which the clients themselves add {added.apart.mean:.2f} ms: {verdict}"
