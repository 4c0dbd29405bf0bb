"""Which requests are made, in which order: every region in every start state, shuffled by a seed. Pure."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

WARM_BLOCK = 10  # warm requests in a row: few enough to spread over the run, enough to meet one another


class Start(StrEnum):
    """What a request finds, coldest first."""

    ORIGIN = "origin"
    REGION = "region"
    HOST = "host"
    RESIDENT = "resident"
    WARM = "warm"


STARTS = tuple(Start)
COLD = STARTS[:-1]
MEANING = {
    Start.ORIGIN: "the bytes are only in the home region; they cross once, then the model starts",
    Start.REGION: "the bytes are in the region's own store, nothing of the model is on a host",
    Start.HOST: "the verified bytes are in the host's memory, no process has the model",
    Start.RESIDENT: "a live process holds the model; this is its first request",
    Start.WARM: "a live process that has already served",
}


@dataclass(frozen=True, slots=True)
class Arm:
    """`num_requests` in one region that shall each find it in one start state."""

    region: str
    start: Start
    num_requests: int = 1


def arms(regions: Sequence[str], num_cold: int, num_warm: int, seed: int) -> list[Arm]:
    """All arms in random order: drift of the machine falls on all of them alike.

    Each cold request is an arm of its own, because each needs its state set before; warm ones come in blocks.
    """
    made = [Arm(region, start) for region in regions for start in COLD for _ in range(num_cold)]
    for region in regions:
        full, rest = divmod(num_warm, WARM_BLOCK)
        made += [Arm(region, Start.WARM, WARM_BLOCK)] * full
        made += [Arm(region, Start.WARM, rest)] if rest else []
    random.Random(seed).shuffle(made)  # noqa: S311 - an order, not a secret
    return made


def coldest(claims: Sequence[str | None]) -> Start | None:
    """What a request found, by what its hops say of it: the coldest of their claims.

    A worker that was started for the request may call itself resident; the gateway that woke it knows better.
    """
    said = [start for start in STARTS if start in claims]
    return said[0] if said else None
