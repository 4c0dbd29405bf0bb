"""Regions that said `Retry-After` for a model: until then another is asked, where another can serve. Pure.

A 429 is said to one tenant, because a full queue turns away whoever has most in it: the others go on as before, near
and by the short way. Any other status is said to everybody.

Who was told 429 has as many requests there as the region wants. For `SHUT_S` the edge sends more only as those come
back, and says the region's words itself to what is beyond them: a refusal by the node has cost every hop as much as
an answer's head by then. Since each that comes back is followed by another, the region's queue stays as full as it was.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from regions.chosen import Choice

MAX_REMEMBERED: Final = 1024  # of a region, a model and who; the oldest is forgotten, and asked again
MAX_WAIT_S: Final = 60.0  # nobody is believed for longer: the region has other hosts by then
SHUT_S: Final = 1.0  # then one more is sent: the region may take more by now, and says so if it does not
ANYONE: Final = ""  # in the place of a tenant


class Hold:
    """What one region said of one model: to be left alone until then, and at first to be sent what came back only."""

    __slots__ = ("num_back", "shut_until", "until")

    def __init__(self) -> None:
        self.until = self.shut_until = float("-inf")
        self.num_back = 0

    def is_shut(self, now: float) -> bool:
        """Whether a request more is more than it takes."""
        return now < self.shut_until and not self.num_back


class Holdoffs:
    """Who is left alone until when, on the clock that `now` is read from: `holds`, mostly nobody."""

    def __init__(self, max_remembered: int = MAX_REMEMBERED) -> None:
        self._max_remembered = max_remembered
        self.holds: OrderedDict[tuple[str, str, str], Hold] = OrderedDict()
        self._last = float("-inf")  # by then nobody is left alone any more

    def __len__(self) -> int:
        return len(self.holds)

    def note(self, region: str, model: str, wait_s: float, now: float, tenant: str = ANYONE) -> None:
        """`region` wants no request of `tenant` for `model` before `wait_s` have passed."""
        hold = self.holds.setdefault((region, model, tenant), Hold())
        if now >= hold.shut_until:
            hold.num_back = 0
        hold.until = now + min(wait_s, MAX_WAIT_S)
        hold.shut_until = min(hold.until, now + SHUT_S) if tenant else now
        self.holds.move_to_end((region, model, tenant))
        self._last = max(self._last, hold.until)
        if len(self.holds) > self._max_remembered:
            self.holds.popitem(last=False)

    def sent(self, region: str, model: str, tenant: str) -> None:
        """A request goes there."""
        if self.holds and (hold := self.holds.get((region, model, tenant))) is not None:
            hold.num_back = max(0, hold.num_back - 1)

    def came_back(self, region: str, model: str, tenant: str) -> None:
        """A request is over that the region had taken: it takes another."""
        if self.holds and (hold := self.holds.get((region, model, tenant))) is not None:
            hold.num_back += 1

    def shut_s(self, region: str, model: str, tenant: str, now: float) -> float | None:
        """Seconds until `region`, which comes first of those that could serve, is to be asked again; None: now."""
        if not self._any(now) or (hold := self.holds.get((region, model, tenant))) is None:
            return None
        return hold.until - now if hold.is_shut(now) else None

    def ordered(
        self, choices: tuple[Choice, ...], model: str, now: float, tenant: str = ANYONE
    ) -> tuple[Choice, ...]:
        """`choices` with those that wait behind those that can serve, which are no drained or ejected ones."""
        if len(choices) < 2 or not self._any(now):
            return choices
        waits = {each.region: self._waits(each.region, model, tenant, now) for each in choices}
        if not any(waits.values()):
            return choices
        return tuple(sorted(choices, key=lambda each: (each.state == "away", waits[each.region])))

    def reorder(self, regions: Iterable[str], model: str, now: float, tenant: str = ANYONE) -> bool:
        """Whether `ordered` may put choices among these in another order than they came."""
        return self._any(now) and any(self._waits(region, model, tenant, now) for region in regions)

    def _any(self, now: float) -> bool:
        """Whether anybody is left alone; all are forgotten once nobody is."""
        if self.holds and now >= self._last:
            self.holds.clear()
        return bool(self.holds)

    def _waits(self, region: str, model: str, tenant: str, now: float) -> int:
        """How far behind it comes: 0 not at all, 1 it is left alone, 2 it is shut."""
        holds = [self.holds.get((region, model, who)) for who in {tenant, ANYONE}]
        found = [1 + each.is_shut(now) for each in holds if each is not None and now < each.until]
        return max(found, default=0)
