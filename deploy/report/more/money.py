"""The counterfactual in seconds, bytes and money: a model beside its store, and with the store far away. Pure."""

from dataclasses import dataclass

from deploy.report.arms import Start
from deploy.report.more.found import Side, Split, middle_of, middle_ttft
from deploy.report.more.terms import Terms


@dataclass(frozen=True, slots=True)
class Bill:
    """Cold starts of one design: bytes that left the store's region, seconds until the first token, money for all."""

    what: str
    is_measured: bool
    num_starts: int
    remote_bytes: float
    cold_s: float
    cost: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both designs for weights of one size."""

    weights: str
    together: Bill
    apart: Bill

    @property
    def longer_s(self) -> float:
        """By how much each cold start is later with the store elsewhere."""
        return self.apart.cold_s - self.together.cold_s


def comparisons(split: Split, terms: Terms) -> list[Comparison]:
    """What was measured, then what its parts come to for larger weights. Empty without answers on both sides."""
    near, far = (_cold_s(side) for side in (split.together, split.apart))
    if near is None or far is None:
        return []
    starts = terms.scale.num_cold_starts
    made = [_compared("this model", split.weight_bytes, near, far, terms, starts, is_measured=True)]
    for weights, num_bytes in terms.scale.models.items():
        more = max(0, num_bytes - split.weight_bytes)
        near_s, far_s = near + more / split.near_bytes_per_s, far + more / split.bytes_per_s
        made.append(_compared(weights, num_bytes, near_s, far_s, terms, starts, is_measured=False))
    return made


def _cold_s(side: Side) -> float | None:
    ttft_ms = middle_ttft(side.of(Start.REGION))
    return ttft_ms / 1000 if ttft_ms is not None else None


def _compared(
    weights: str,
    num_bytes: float,
    near_s: float,
    far_s: float,
    terms: Terms,
    starts: int,
    *,
    is_measured: bool,
) -> Comparison:
    sides = {"together": (near_s, 0.0, False), "apart": (far_s, num_bytes, True)}
    bills = {
        what: Bill(
            what, is_measured, starts, crossed, cold_s, starts * terms.cost(num_bytes, cold_s, apart=apart)
        )
        for what, (cold_s, crossed, apart) in sides.items()
    }
    return Comparison(weights, bills["together"], bills["apart"])


def tokens_per_s(side: Side) -> float | None:
    """Its middle warm rate: the control, which should not depend on where the store is."""
    return middle_of([s.tokens_per_s for s in side.of(Start.WARM) if s.tokens_per_s is not None])
