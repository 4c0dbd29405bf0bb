"""The pages of weights that are here already are mapped while the model is made, which leaves one core idle.

A gigabyte of a file takes 20 to 65 ms to map, in turns of 16 pages as the kernel maps them around one that is touched.
The first pass would pay for it. Reads by torch need neither the interpreter's lock nor the process' memory map, which a
thread of madvise calls took in turn with the model's making, or kept from it: both gained nothing (measured).
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from weights_cache.memory.view import LandingView

LEAST_BYTES = 128 << 20
"""Fewer are mapped in a few milliseconds."""
AROUND_BYTES = 64 * 1024
"""What the kernel maps around a page that is touched (`fault_around_bytes`)."""
TURN_BYTES = 256 << 20
"""Mapped without a look at the interpreter: few enough reads for one thread of torch's."""


def map_ahead(view: LandingView) -> threading.Thread | None:
    """The thread that maps all of a landing that is here; None if it is not, or is small.

    It goes from the end to the beginning, since a pass that catches up with it maps what it waits for from there.
    """
    if view.layout.total_bytes < LEAST_BYTES or not view.is_whole:
        return None
    found = threading.Thread(target=_touch_all, args=(view,), daemon=True)
    found.start()
    return found


def _touch_all(view: LandingView) -> None:
    places = torch.frombuffer(view.buffer, dtype=torch.uint8)[::AROUND_BYTES]
    most = TURN_BYTES // AROUND_BYTES
    for first in reversed(range(0, len(places), most)):
        places[first : first + most].sum()
    view.note_mapped()
