"""Fills the slots of a pinned ring by several threads, as far ahead of the copies as slots are free.

One thread copies memory at a sixth of a PCIe 5 link's rate. So one waits, in order, for extents and for free slots
(`inference.engine.gpu.ring.fills`), and several others copy, a part of a slot each.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Protocol

from inference.engine.gpu.ring import Fill, WaitExtent, WaitSlot, fills
from weights_cache.memory.view import LandingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch

    from inference.engine.gpu.device import Mark
    from inference.engine.gpu.ring import Part, Ring

FILLERS_A_SLOT = 2
MOST_FILLERS = 10
"""Threads that copy, each 5 GB/s on 16 cores beside an H200."""
OTHER_THREADS = 2
"""The one that waits and the one that sends want a core each, where there are as many."""
TURN_BYTES = 4 << 20
"""Copied at once by one thread."""


class Source(Protocol):
    """Where the bytes come from."""

    def wait(self, extent: int) -> None:
        """Wait until an extent is here. Raises LandingError."""

    def read(self, part: Part) -> torch.Tensor:
        """A part's bytes: [length] uint8 in host memory, where they stay while the source lives."""


Span = tuple[int, int, int]
"""What is copied: to which address, from which, and how many bytes."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one thread copies to a slot. The last of a slot to end says when its bytes were here."""

    slot: int
    spans: Sequence[Span]
    here_s: float


class Filler:
    """Fills `slots` with `parts` from `source`; each is waited for by `wait`, and given back by `give_back`.

    `read[slot]` is recorded by the caller behind the copies from that slot, before it gives the slot back.
    """

    def __init__(
        self, ring: Ring, source: Source, slots: Sequence[torch.Tensor], read: Sequence[Mark]
    ) -> None:
        self._ring, self._source, self._slots, self._read = ring, source, slots, read
        self._todo: SimpleQueue[Turn | None] = SimpleQueue()
        self._filled: list[SimpleQueue[float | Exception]] = [SimpleQueue() for _ in slots]
        self._lock, self._left = threading.Lock(), [0 for _ in slots]
        self._sent: SimpleQueue[bool] = SimpleQueue()
        most = min(MOST_FILLERS, FILLERS_A_SLOT * ring.num_slots)
        self._num_threads = max(1, min(most, len(os.sched_getaffinity(0)) - OTHER_THREADS))

    def start(self, parts: Sequence[Part]) -> None:
        """Begin; the threads end by themselves after the last slot, a fault or `stop`."""
        threading.Thread(target=self._feed, args=(parts,), name="nf-ring-feed", daemon=True).start()
        for number in range(self._num_threads):
            threading.Thread(target=self._fill, name=f"nf-ring-{number}", daemon=True).start()

    def wait(self, slot: int) -> float:
        """Wait until the slot is filled; gives the `time.perf_counter` at which its bytes were there to be copied.

        Raises:
            LandingError: they will not land.
            RuntimeError: the device failed.
        """
        found = self._filled[slot].get()
        if isinstance(found, Exception):
            raise found
        return found

    def give_back(self) -> None:
        """The slot that was waited for last is sent, and its mark recorded."""
        self._sent.put(True)

    def stop(self) -> None:
        """Nobody waits any more."""
        self._sent.put(False)

    def _feed(self, parts: Sequence[Part]) -> None:
        try:
            self._hand_out(parts)
        except (LandingError, RuntimeError) as fault:
            for each in self._filled:
                each.put(fault)
        for _ in range(self._num_threads):
            self._todo.put(None)

    def _hand_out(self, parts: Sequence[Part]) -> None:
        here_s = time.perf_counter()
        for step in fills(parts, self._ring):
            match step:
                case WaitExtent():
                    self._source.wait(step.extent)
                    here_s = time.perf_counter()
                case WaitSlot():
                    if not self._sent.get():
                        return
                    self._read[step.slot].synchronize()
                case Fill():
                    self._share_out(step, here_s)

    def _share_out(self, step: Fill, here_s: float) -> None:
        first = self._slots[step.slot].data_ptr()
        spans = [(first + at, self._source.read(part).data_ptr(), part.length) for at, part in step.load]
        turns = [Turn(step.slot, each, here_s) for each in _turns(spans)]
        self._left[step.slot] = len(turns)
        for turn in turns:
            self._todo.put(turn)

    def _fill(self) -> None:
        while (turn := self._todo.get()) is not None:
            for span in turn.spans:
                _copy(*span)
            with self._lock:
                self._left[turn.slot] -= 1
                is_last = not self._left[turn.slot]
            if is_last:
                self._filled[turn.slot].put(turn.here_s)


def _turns(spans: Sequence[Span]) -> Iterator[list[Span]]:
    """All of them in pieces of at most `TURN_BYTES`, a piece of one or several."""
    turn: list[Span] = []
    num_bytes = 0
    for target, source, length in spans:
        for done in range(0, length, TURN_BYTES):
            piece_bytes = min(TURN_BYTES, length - done)
            if num_bytes + piece_bytes > TURN_BYTES:
                yield turn
                turn, num_bytes = [], 0
            turn.append((target + done, source + done, piece_bytes))
            num_bytes += piece_bytes
    yield turn


def _copy(target: int, source: int, num_bytes: int) -> None:
    """By this thread alone, and without the interpreter's lock."""
    ctypes.memmove(target, source, num_bytes)
