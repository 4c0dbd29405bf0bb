"""Who wants which bytes of one object, and what is to be fetched next. Pure: no clock, no file, no connection.

Rule 1: a byte that is here, or that a claim will bring, is never claimed again.
Rule 2: the reader that waits on the nearest missing byte is served first; bytes that nobody wants are not fetched.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from storage.homes.spans import Spans

MIB = 1024 * 1024
MAX_CLAIMS = 4  # connections for one object: fills a long link, leaves room for others
CLAIM_BYTES = 64 * MIB  # of one request: who wants the middle waits at most for this much before it


@dataclass(frozen=True, slots=True)
class Claim:
    """Bytes start..end that one fetch brings."""

    number: int
    start: int
    end: int


@dataclass(slots=True)
class _Wish:
    at: int
    end: int


class Plan:
    """The state of one object's fetching.

    Attributes:
        covered: what is here.
    """

    def __init__(
        self, size: int, covered: Spans, *, max_claims: int = MAX_CLAIMS, claim_bytes: int = CLAIM_BYTES
    ) -> None:
        self.size = size
        self.covered = covered
        self._max_claims = max_claims
        self._claim_bytes = claim_bytes
        self._wishes: dict[int, _Wish] = {}
        self._claims: dict[int, _Wish] = {}
        self._next = 0

    def want(self, start: int, end: int) -> int:
        """A reader wants start..end; its number."""
        self._next += 1
        self._wishes[self._next] = _Wish(start, end)
        return self._next

    def moved(self, reader: int, at: int) -> None:
        """A reader needs nothing before `at` any more."""
        self._wishes[reader].at = at

    def leave(self, reader: int) -> None:
        """A reader has all it wanted, or is gone."""
        self._wishes.pop(reader, None)

    def claim(self) -> Claim | None:
        """The next bytes to fetch, now claimed; None if nothing is missing or enough is under way."""
        if len(self._claims) >= self._max_claims:
            return None
        gaps = ((wish, self._missing(wish)) for wish in self._wishes.values())
        found = min(((at - wish.at, at, wish.end) for wish, at in gaps if at < wish.end), default=None)
        if found is None:
            return None
        _, start, end = found
        self._next += 1
        self._claims[self._next] = _Wish(start, self._stop(start, end))
        return Claim(self._next, start, self._claims[self._next].end)

    def landed(self, claim: int, num_bytes: int) -> None:
        """The next bytes of a claim are here."""
        fetch = self._claims[claim]
        self.covered.add(fetch.at, fetch.at + num_bytes)
        fetch.at += num_bytes

    def ended(self, claim: int) -> int:
        """A claim brings nothing more; what it did not bring may be claimed again. How many bytes that is."""
        fetch = self._claims.pop(claim)
        return fetch.end - fetch.at

    def unwanted(self) -> Iterable[int]:
        """Claims of which no reader needs a byte any more."""
        return [number for number, fetch in self._claims.items() if not self._is_wanted(fetch)]

    @property
    def is_whole(self) -> bool:
        """True once every byte is here."""
        return self.covered.num_bytes == self.size

    def _is_wanted(self, fetch: _Wish) -> bool:
        return any(max(wish.at, fetch.at) < min(wish.end, fetch.end) for wish in self._wishes.values())

    def _missing(self, wish: _Wish) -> int:
        """The first byte a reader needs that is neither here nor on its way."""
        at = wish.at
        while at < wish.end:
            ahead = self.covered.end_of(at)
            ahead = max([ahead, *(each.end for each in self._claims.values() if each.at <= ahead < each.end)])
            if ahead == at:
                break
            at = ahead
        return at

    def _stop(self, start: int, end: int) -> int:
        """Where a claim from `start` must end: at the reader's end, at what is here, or at another claim."""
        others = [each.at for each in self._claims.values() if each.at > start]
        here = self.covered.next_after(start)
        return min([end, start + self._claim_bytes, *others, *([] if here is None else [here])])
