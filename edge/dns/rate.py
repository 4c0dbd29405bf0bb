"""Response-rate limiting: what a forged source address can have sent to its owner is bounded (ISC-TN-2012-1).

A client's network has a bucket of answers. When it is empty, one of SLIP answers says "truncated", which is no longer
than the question and lets a real client go on over TCP, which cannot be forged; the others are not sent. Memory is
bounded by two generations: who was not heard of in the last MAX_CLIENTS newcomers is forgotten, its bucket full again.
"""

from typing import Final

from edge.dns.client import Client

SLIP: Final = 2
MAX_CLIENTS: Final = 32_768  # in each generation
BURST_S: Final = 2.0


class ResponseRate:
    """`take(client, now)` for each datagram that may be answered."""

    def __init__(self, per_s: float, max_clients: int = MAX_CLIENTS) -> None:
        self._per_s = per_s
        self._burst = per_s * BURST_S
        self._max_clients = max_clients
        self._young: dict[Client, list[float]] = {}  # [answers left, when, limited so far]
        self._old: dict[Client, list[float]] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def take(self, client: Client, now: float) -> bool | None:
        """True: answer. False: say only that the answer is truncated. None: say nothing."""
        bucket = self._young.get(client) or self._admit(client, now)
        left = min(self._burst, bucket[0] + (now - bucket[1]) * self._per_s)
        bucket[1] = now
        if left >= 1.0:
            bucket[0] = left - 1.0
            return True
        bucket[0] = left
        bucket[2] += 1.0
        return None if bucket[2] % SLIP else False

    def _admit(self, client: Client, now: float) -> list[float]:
        if len(self._young) >= self._max_clients:
            self._young, self._old = {}, self._young
        bucket = self._old.pop(client, []) or [self._burst, now, 0.0]
        self._young[client] = bucket
        return bucket
