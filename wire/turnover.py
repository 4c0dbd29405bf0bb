"""How fast what is held leaves, measured: what a full house tells whoever comes. Pure."""

from collections.abc import Sequence
from functools import lru_cache
from operator import mul

WEIGHT = 0.1  # of the newest stay in the mean: about the last ten count
MIN_WAIT_S = 1.0
MAX_WAIT_S = 60.0  # nobody is sent away for longer: places are free long before
SHARE = 0.1  # of the places: when so many have been left, one is likely to be free for who comes back


class Turnover:
    """The mean stay. By Little's law a full house of any size loses SHARE of its guests in SHARE of it."""

    __slots__ = ("_stay_s",)

    def __init__(self) -> None:
        self._stay_s: float | None = None

    def left(self, stay_s: float) -> None:
        """One more has left after `stay_s`."""
        self.all_left((stay_s,))

    def all_left(self, stays_s: Sequence[float]) -> None:
        """So many more have left, in this order; the mean is what it is after one at a time, summed in one call."""
        if stays_s:
            before_s = stays_s[0] if self._stay_s is None else self._stay_s
            kept, *weights = _weights(len(stays_s))
            self._stay_s = kept * before_s + sum(map(mul, weights, stays_s))

    def wait_s(self, share: float = SHARE) -> float:
        """Seconds after which another try is worth while: when such a share of the places has been left."""
        return min(MAX_WAIT_S, max(MIN_WAIT_S, share * (self._stay_s or 0.0)))


@lru_cache(maxsize=128)
def _weights(num: int) -> tuple[float, ...]:
    """What is left of the mean before, then what each of `num` stays, the oldest first, has in the one after."""
    kept = [(1.0 - WEIGHT) ** age for age in range(num + 1)]
    return (kept[num], *(WEIGHT * share for share in reversed(kept[:num])))
