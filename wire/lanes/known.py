"""The lanes of one listener by the head that each is for: what was judged on one connection holds on the others too.

A client that opens a second connection sends the same bytes on it. Without this the first request of each goes the
whole way, and where answers come late, so that more connections are needed at once, it does so just then.
"""

from typing import Final
from weakref import WeakValueDictionary

from wire.lanes.lane import LENGTH_LINE, MAX_HEAD_BYTES, Lane

_END: Final = b"\r\n\r\n"


class Lanes:
    """Each lasts as long as a connection that it was left with: no head, nor the key in it, is kept beyond that."""

    def __init__(self) -> None:
        self._by_head: WeakValueDictionary[tuple[bytes, bytes], Lane] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._by_head)

    def keep(self, lane: Lane) -> None:
        """In the place of an older one for the same head."""
        around = lane.familiar.around_length
        if around is not None:
            self._by_head[around] = lane

    def of(self, data: bytes) -> Lane | None:
        """The one for the head that `data` begins with."""
        end = data.find(_END, 0, MAX_HEAD_BYTES) + len(_END)
        length = LENGTH_LINE.search(data, 0, end)
        if length is None:
            return None
        return self._by_head.get((data[: length.start(1)], data[length.end(1) : end]))
