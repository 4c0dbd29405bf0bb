"""An upload that does not move: when it last did, and an end to its tries.

The SDK tries each call eight times and waits a minute for each answer: behind a store that takes connections and says
nothing, that is eight minutes without a word.
"""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from storage.client.answers import Unreachable

STALL_S = 60.0  # the SDK waits as long for one answer: a store that answers at all has answered by then


class Stall:
    """Told of bytes and of answers from several threads. `heard` is called when something moved.

    Bytes that are sent again do not count: each try fills the buffers on the way, also to a store that is stopped.
    """

    def __init__(
        self,
        limit_s: float = STALL_S,
        heard: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit_s, self._heard, self._clock = limit_s, heard, clock
        self._lock = threading.Lock()
        self._sent = self._most_sent = 0
        self._moved = clock()

    def sent(self, num_bytes: int) -> None:
        """So many bytes went; below 0 when a try was given up and they will go again."""
        with self._lock:
            self._sent += num_bytes
            is_new = self._sent > self._most_sent
            self._most_sent = max(self._most_sent, self._sent)
        if is_new:
            self._move()

    def watch(self, client: Any) -> None:
        """Have a client of botocore tell its answers and ask before each try."""
        client.meta.events.register("response-received.s3", self._answered)
        client.meta.events.register("before-send.s3", self._check)

    def _answered(self, response_dict: Mapping[str, Any] | None = None, **_: Any) -> None:
        """A gateway on the way may answer for a store that is away: that is no move."""
        if response_dict is not None and response_dict["status_code"] < 500:
            self._move()

    def _check(self, **_: Any) -> None:
        """Raises Unreachable: there is no sense in another try."""
        silent_s = self._clock() - self._moved
        if silent_s >= self._limit_s:
            text = f"the upload has not moved for {silent_s:.0f} s: the store takes nothing"
            raise Unreachable("Unreachable", text)

    def _move(self) -> None:
        self._moved = self._clock()
        self._heard()
