"""Bytes in, bytes out: the whole server without a socket. Every bound on what a stranger can cost is here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edge.dns.client import of_host
from edge.dns.fast import FastPath
from edge.dns.slow import SlowPath
from edge.dns.wire import HEADER_BYTES, QR, truncated

if TYPE_CHECKING:
    from edge.dns.rate import ResponseRate
    from edge.dns.steer import Steering
    from edge.dns.zone import Zone

MAX_QUERY_BYTES: Final = 4096  # over TCP; an ordinary query with every option in use has 300
MAX_SEGMENT_BYTES: Final = 65_535
SLOW_PER_S: Final = 500.0  # questions in a second for the slow path: a fifth of a core
SLOW_BURST: Final = 500.0


class Responder:
    """Answers datagrams and the messages of streams; `now` is any steady clock in seconds."""

    def __init__(self, zone: Zone, steering: Steering, rate: ResponseRate) -> None:
        self.num_heard = self.num_over_tcp = 0  # what follows is a part of these two
        self.num_slow = self.num_limited = self.num_truncated = self.num_silent = 0
        self._steering = steering
        self._rate = rate
        self._slow_left, self._slow_at = SLOW_BURST, 0.0
        self.use(zone)

    def use(self, zone: Zone) -> None:
        """From now on answer with this zone."""
        self._fast = FastPath(zone, self._steering)
        self._slow = SlowPath(zone, self._steering)

    def datagram(self, query: bytes, host: str, now: float) -> bytes:
        """The answer to a datagram from `host`; b"": none. Never longer than what the client said it takes."""
        self.num_heard += 1
        if len(query) < HEADER_BYTES or query[2] & QR:
            self.num_silent += 1
            return b""
        client = of_host(host)
        permitted = self._rate.take(client, now)
        if permitted is None:
            self.num_limited += 1
            return b""
        if not permitted:
            self.num_truncated += 1
            return truncated(query)
        answer = self._fast.answer(query, client, None)
        if answer is not None:
            return answer
        return self._slow.answer(query, client, None) if self._slow_has_room(now) else b""

    def segment(self, query: bytes, host: str, now: float) -> bytes:
        """The answer to a message of a stream; b"": none, and the stream is to end."""
        self.num_over_tcp += 1
        if len(query) > MAX_QUERY_BYTES or len(query) < HEADER_BYTES or query[2] & QR:
            self.num_silent += 1
            return b""
        client = of_host(host)
        answer = self._fast.answer(query, client, MAX_SEGMENT_BYTES)
        if answer is not None:
            return answer
        return self._slow.answer(query, client, MAX_SEGMENT_BYTES) if self._slow_has_room(now) else b""

    def _slow_has_room(self, now: float) -> bool:
        self._slow_left = min(SLOW_BURST, self._slow_left + (now - self._slow_at) * SLOW_PER_S)
        self._slow_at = now
        if self._slow_left < 1.0:
            self.num_silent += 1
            return False
        self.num_slow += 1
        self._slow_left -= 1.0
        return True
