"""What round trips were measured between clients and POPs: bounded, and forgotten when it is old."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge.dns.client import Client

MAX_CLIENTS: Final = 65_536  # about 20 MiB; who was not seen for longest goes
MAX_AGE_S: Final = 3600.0  # routes change in hours
WEIGHT: Final = 0.3  # of the newest figure: the last five or so count


class RttTable:
    """`client -> POP -> milliseconds`; time is an argument."""

    def __init__(self, max_clients: int = MAX_CLIENTS) -> None:
        self._max_clients = max_clients
        self._seen: OrderedDict[Client, dict[int, tuple[float, float]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._seen)

    def note(self, client: Client, pop: int, rtt_ms: float, now: float) -> None:
        """One figure; a first one, or one after a long silence, counts whole."""
        known = self._seen.setdefault(client, {})
        before, at = known.get(pop, (rtt_ms, now))
        fresh = rtt_ms if now - at > MAX_AGE_S else before + WEIGHT * (rtt_ms - before)
        known[pop] = (fresh, now)
        self._seen.move_to_end(client)
        if len(self._seen) > self._max_clients:
            self._seen.popitem(last=False)

    def of(self, client: Client, now: float) -> Mapping[int, float]:
        """What is known of a client's way to each POP and not too old."""
        known = self._seen.get(client, {})
        return {pop: rtt for pop, (rtt, at) in known.items() if now - at <= MAX_AGE_S}

    def age(self, now: float) -> None:
        """Forget who was not seen for MAX_AGE_S."""
        while self._seen:
            latest = max(at for _, at in next(iter(self._seen.values())).values())
            if now - latest <= MAX_AGE_S:
                return
            self._seen.popitem(last=False)
