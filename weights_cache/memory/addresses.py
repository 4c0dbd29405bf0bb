"""Where a revision's weights will lie in a process' memory, known before there is a byte of them.

The run of addresses is reserved, and takes no memory. Tensors can view it, and a model be made of them, as long as
nobody looks at what is there (zeros). Then the landing's memory, and after it the files that are mapped where the store
of this host has them, are laid over the same addresses. A child that was forked in between has them for itself.
"""

import mmap
from collections.abc import Sequence

from weights_cache.memory import pages
from weights_cache.model.plan import Layout, MappedFile, layout
from weights_cache.model.revision import Revision


class Addresses:
    """`buffer`: as many bytes as the layout has, nothing but zeros until `fill`."""

    def __init__(self, revision: Revision, mapped: Sequence[MappedFile] = ()) -> None:
        """`mapped`: the files that will not be in the landing's memory. Raises OSError: no addresses are left."""
        self.revision = revision
        self.layout: Layout = layout(revision.files, revision.tensors, mapped)
        self.region = pages.reserve(self.layout.total_bytes)
        self.buffer = memoryview(self.region)[: self.layout.total_bytes]
        self._mapped = tuple(mapped)

    def fill(self, fd: int, mapped_fds: Sequence[int] = ()) -> None:
        """Lay the landing behind these descriptors here, private and copy-on-write. Raises OSError."""
        flags = mmap.MAP_PRIVATE | pages.MAP_NORESERVE
        places, revision = self.layout, self.revision
        if places.fresh_bytes:
            pages.lay(self.region, 0, fd, 0, places.fresh_bytes, flags)
        for each, file_fd in zip(self._mapped, mapped_fds, strict=True):
            lead = each.data_at % mmap.PAGESIZE
            length = revision.files[each.file].size - places.data_starts[each.file]
            start = places.file_starts[each.file] - lead
            pages.lay(self.region, start, file_fd, each.data_at - lead, lead + length, flags)
