"""The connections to one region, looked at through this host's kernel, and cut when the way is lost.

Only what waits is looked at all the time: a few microseconds a beat in a healthy minute. What is cut was never
acknowledged, so it goes to another region; streams may outlast a short loss, and end after STREAM_S of silence.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final, TypeAlias

from wire.tcpinfo import look
from wire.ways.silence import Silence, limit_s

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wire.dial import Pool
    from wire.tcpinfo import Look
    from wire.upstreams.connect import Attempt
    from wire.upstreams.upstream import Upstream

    Line: TypeAlias = Attempt | Upstream

MAX_LOOKS: Final = 64
DOUBT: Final = 1 / 3  # of the time after which a way is lost: what is made from then on is ready by its end
STREAM_S: Final = (
    1.5  # the kernel asks each second (`wire/upstreams/keepalive.py`), and a round trip is less than the rest
)


class Listener:
    """Over the pools of one region; those of `pool` alone are cut."""

    def __init__(self, pool: Pool, probes: Pool) -> None:
        self._pool, self._probes = pool, probes
        self._silence = Silence()
        self.waits = False
        """Whether anything waited for a first byte at the last look."""
        self.is_asked = False
        """Whether more than one request did."""
        self.num_doubted = 0
        """How many requests will be cut at this pace if the way is lost, as it may be; 0 while it seems well."""

    def lost(self, now: float, rtt_ms: float | None) -> bool:
        """Whether the way is lost: by what waits for a first byte, and if that says so by all connections."""
        used = (*self._pool.in_use(), *self._probes.in_use())
        waiting = [each for each in used if each.waits]
        self.waits, self.num_doubted = bool(waiting), 0
        self.is_asked = len(waiting) > 1 and sum(each.waits for each in self._pool.busy()) > 1
        if not waiting:
            self._silence.forget()
            return False
        limit = limit_s(rtt_ms)
        is_lost = self._silence.lost(now, _looks(waiting), limit)
        near = self._silence.near
        if near >= DOUBT:
            self.num_doubted = round(len(waiting) * max(1.0, 1.0 / near))
        if not is_lost:
            return False
        return self._silence.lost(now, _looks((*waiting, *self._pool.idle(), *used)), limit)

    def cut(self) -> int:
        """Give up what was sent and not acknowledged; how many."""
        return _abort(each for each, seen in _looks(self._pool.in_use(), None).items() if seen.unacked)

    def cut_silent(self) -> int:
        """Give up the streams whose kernel has heard nothing for long; how many."""
        streams = [each for each in self._pool.in_use() if not each.waits]
        return _abort(each for each, seen in _looks(streams, None).items() if seen.heard_s >= STREAM_S)


def _looks(lines: Iterable[Line], most: int | None = MAX_LOOKS) -> dict[Line, Look]:
    found = ((each, look(each.sock)) for each in islice(dict.fromkeys(lines), most))
    return {each: seen for each, seen in found if seen is not None}


def _abort(lines: Iterable[Line]) -> int:
    doomed = list(lines)
    for each in doomed:
        each.abort()
    return len(doomed)
