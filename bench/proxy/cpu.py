"""Processor time of a small request: a proxy and its peer in turns of a second, told by the middle of the rounds.

A host that others use has spells of about a second in which Python takes 1.4 times as long in every process: one
measurement of each, one after the other, tells which of them met such a spell.
"""

from collections.abc import Sequence
from pathlib import Path

from bench.proxy import load
from bench.proxy.load import Blast
from bench.proxy.stage import Proxy
from bench.rows import Row, compare, middle

NUM_ROUNDS = 5
Rounds = Sequence[tuple[Blast, Blast]]


def in_turns(proxies: tuple[Proxy, Proxy], scratch: Path, connections: int, seconds: float) -> Rounds:
    """Of both in each round, `seconds` each in all, though a second at the least in a round. Raises: Missing, Wrong."""
    mine, other = proxies
    each_s = seconds / NUM_ROUNDS
    return [
        (
            load.blast(mine, scratch, connections, each_s),
            load.blast(other, scratch, connections, each_s),
        )
        for _ in range(NUM_ROUNDS)
    ]


def cost(what: str, rounds: Rounds, target: float | None = None) -> Row:
    """Of one request, against the peer's."""
    pairs = [(mine.cpu_us, other.cpu_us) for mine, other in rounds]
    return compare(f"{what}, {_told(pairs)}", *middle(pairs), "us", better="lower", target=target)


def rate(what: str, rounds: Rounds) -> Row:
    """Requests a second, against the peer's."""
    return compare(
        what, *middle([(mine.per_s, other.per_s) for mine, other in rounds]), "1/s", better="higher"
    )


def _told(pairs: Sequence[tuple[float, float]]) -> str:
    ratios = [theirs / ours for ours, theirs in pairs]
    return f"middle of {len(pairs)} rounds ({min(ratios):.2f} to {max(ratios):.2f})"
