"""Which extents one request asks for: a run of them that follow one another in a file. Pure.

A request costs the store and its reader a millisecond or two, which a fast link feels (one processor-second in six,
measured at 16 MiB a request); on a slow link a long run would keep back what is needed first.
"""

from collections.abc import Collection, Iterator, Sequence

from weights_cache.model.revision import Extent, Revision

RUN_S = 0.1  # what one request may take, at the rate of the reader's last one
MAX_RUN_BYTES = 64 << 20  # of one request: beyond it nothing is gained


class Runs:
    """The extents of a revision, given out once, in order, to `num_readers`. Not for several threads at once.

    `alone`: files whose extents are not read from the store, and so are given out one by one.
    """

    def __init__(self, revision: Revision, num_readers: int, alone: Collection[int] = ()) -> None:
        self._extents, self.num_readers, self._alone = revision.extents, num_readers, alone
        self._next = 0
        self._left_bytes = sum(extent.length for extent in revision.extents)

    @property
    def are_out(self) -> bool:
        """Whether all are given out."""
        return self._next == len(self._extents)

    def take(self, bytes_per_s: float) -> range:
        """The next extents for a reader of this rate: at least one, none when all are given out.

        Towards the end runs get shorter, so that all readers end together.
        """
        extents = self._extents
        if self.are_out:
            return range(0)
        share_bytes = self._left_bytes // (2 * self.num_readers)
        most_bytes = min(bytes_per_s * RUN_S, share_bytes, MAX_RUN_BYTES)
        first, num_bytes = self._next, extents[self._next].length
        end = first + 1
        while end < len(extents) and num_bytes + extents[end].length <= most_bytes and self._follows(end):
            num_bytes += extents[end].length
            end += 1
        self._next, self._left_bytes = end, self._left_bytes - num_bytes
        return range(first, end)

    def _follows(self, number: int) -> bool:
        ahead, extent = self._extents[number - 1], self._extents[number]
        return _touch(ahead, extent) and extent.file not in self._alone


def _touch(ahead: Extent, extent: Extent) -> bool:
    return extent.file == ahead.file and extent.offset == ahead.offset + ahead.length


def pieces(numbers: Sequence[int]) -> Iterator[range]:
    """Rising numbers as ranges of those that follow one another."""
    start = 0
    for at in range(1, len(numbers) + 1):
        if at == len(numbers) or numbers[at] != numbers[at - 1] + 1:
            yield range(numbers[start], numbers[at - 1] + 1)
            start = at
