"""Landing memory: shared memory files, some of them kept ready so that a cold start touches no fresh page.

The first touch of fresh memory costs 0.6-1.7 s a GiB on a virtual machine, reuse 6-16 ms. Populating is done
with MADV_POPULATE_WRITE, which also turns "no memory left" into an error here instead of a SIGBUS later. A landing of
some size is in huge pages where the host makes any (`weights_cache.memory.pages`).
"""

import mmap
import os
import threading

from weights_cache.memory import pages

PAGE_BYTES = mmap.PAGESIZE
STEP_BYTES = (
    4 << 20
)  # populated at once in the background: ~10-25 ms in huge pages, so that a load soon gets the processor
SMALL_BYTES = 64 << 20  # a landing below this takes fresh memory (< 0.1 s) and leaves the pool whole
SLACK_BYTES = 64 << 20  # a pooled buffer this much too large is kept whole rather than cut
QUIET_S = 2.0  # after a load: its first request is being computed, and memory for the next one can wait
IDLE_NICE = 19
SLOW_S_PER_BYTE = 4e-9  # small pages of memory that the host has never given take up to 2e-9


def whole_pages(num_bytes: int) -> int:
    """The bytes of the pages that `num_bytes` take."""
    return num_bytes + -num_bytes % PAGE_BYTES


class HostMemoryError(OSError):
    """The host has no memory left for a landing."""


class Buffer:
    """One memfd, mapped writable while it lives. `num_bytes` is the memory it holds, whole pages."""

    _wants_huge = True  # until the kernel has none, or is slow to make them

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = max(PAGE_BYTES, whole_pages(num_bytes))
        self.populated_bytes = 0
        self.fd = os.memfd_create("nearfield-landing", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, self.num_bytes)
        self._map: mmap.mmap | None = pages.shared(self.fd, self.num_bytes)

    def view(self) -> memoryview:
        """All of it, writable; the memory lives as long as a view of it. Raises ValueError once closed."""
        if self._map is None:
            raise ValueError("this buffer is closed")
        return memoryview(self._map)[: self.num_bytes]

    def read_only_fd(self) -> int:
        """A new descriptor that cannot write, to hand to another process. The caller closes it."""
        return os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_CLOEXEC)

    def populate(self, offset: int, length: int, *, patient: bool = False) -> None:
        """Make the pages of a span present and writable, in any thread. Raises HostMemoryError.

        With `patient` huge ones are worth any wait; else not if they come slower than small ones do.
        """
        region = self._map
        if region is None or offset + length <= self.populated_bytes:
            return
        start = offset - offset % PAGE_BYTES
        if self._wants_huge and self.num_bytes >= SMALL_BYTES:
            s_per_byte = pages.collapse(region, start, offset + length, self.num_bytes)
            self._wants_huge = s_per_byte is not None and (patient or s_per_byte < SLOW_S_PER_BYTE)
        code = pages.advise(region, start, offset + length - start, pages.POPULATE_WRITE)
        if code in pages.UNKNOWN:
            os.posix_fallocate(self.fd, start, offset + length - start)
        elif code:
            raise HostMemoryError(code, f"no memory for {length:,} bytes of weights")

    def grow(self, num_bytes: int) -> None:
        """Hold at least `num_bytes`; what is populated stays so. Nobody views it now."""
        self.num_bytes = max(self.num_bytes, whole_pages(num_bytes))
        os.ftruncate(self.fd, self.num_bytes)
        self._map = pages.shared(
            self.fd, self.num_bytes
        )  # a thread that still populates the old one keeps that

    def shrink(self, num_bytes: int) -> None:
        """Give back the pages past `num_bytes`. The mapping stays as long; its end is not touched again."""
        self.num_bytes = max(PAGE_BYTES, whole_pages(num_bytes))
        os.ftruncate(self.fd, self.num_bytes)
        self.populated_bytes = min(self.populated_bytes, self.num_bytes)

    def close(self) -> None:
        """Free the memory, as far as no view and no other process holds it."""
        if self._map is not None:
            # Dropped, not closed: a thread that still populates it keeps the mapping alive until it is done.
            self._map = None
            os.close(self.fd)


class BufferPool:
    """Buffers of landings that are gone, and one populated ahead. At most `pool_bytes` are kept free."""

    def __init__(self, pool_bytes: int) -> None:
        self.pool_bytes = whole_pages(pool_bytes)
        self._lock = threading.Lock()
        self._free: list[Buffer] = []

    @property
    def free_bytes(self) -> int:
        """Bytes kept for the next landing."""
        with self._lock:
            return sum(buffer.num_bytes for buffer in self._free)

    @property
    def ready_bytes(self) -> int:
        """Bytes of them that are populated already."""
        with self._lock:
            return sum(buffer.populated_bytes for buffer in self._free)

    def take(self, num_bytes: int) -> Buffer:
        """A buffer of at least `num_bytes`: the smallest free one that fits, the largest one made longer, or a new one.

        A longer one is there as far as it was before: that much less to touch, and no second memory beside it.
        """
        if num_bytes < SMALL_BYTES:
            return Buffer(num_bytes)
        with self._lock:
            if not self._free:
                return Buffer(num_bytes)
            fitting = [buffer for buffer in self._free if buffer.num_bytes >= num_bytes]
            chosen = min(fitting, key=_size) if fitting else max(self._free, key=_size)
            self._free.remove(chosen)
        if chosen.num_bytes < num_bytes:
            chosen.grow(num_bytes)
        elif chosen.num_bytes > num_bytes + SLACK_BYTES:
            chosen.shrink(num_bytes)
        return chosen

    def give(self, buffer: Buffer) -> None:
        """Take a buffer back whose bytes nobody maps any more; it is freed if the pool is full."""
        with self._lock:
            free_bytes = sum(each.num_bytes for each in self._free)
            if SMALL_BYTES <= buffer.num_bytes <= self.pool_bytes - free_bytes:
                self._free.append(buffer)
                return
        buffer.close()

    def refill(self, stop: threading.Event) -> None:
        """Populate one new buffer up to the cap, in steps, until done, stopped, or taken by a landing.

        Runs in a thread of its own, which it makes the least urgent one of the host.
        """
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), IDLE_NICE)
        if stop.wait(QUIET_S):
            return
        with self._lock:
            missing = self.pool_bytes - sum(buffer.num_bytes for buffer in self._free)
            if missing < SMALL_BYTES:
                return
            buffer = Buffer(missing)
            self._free.append(buffer)
        while buffer.populated_bytes < buffer.num_bytes and not stop.is_set() and self._is_free(buffer):
            reached = min(buffer.populated_bytes + STEP_BYTES, buffer.num_bytes)
            try:
                buffer.populate(buffer.populated_bytes, reached - buffer.populated_bytes, patient=True)
            except HostMemoryError:
                return  # the host is full, or the buffer was taken and cut: the pool is only ever a gain
            buffer.populated_bytes = reached

    def _is_free(self, buffer: Buffer) -> bool:
        with self._lock:
            return any(each is buffer for each in self._free)

    def close(self) -> None:
        """Free every buffer that is not in use."""
        with self._lock:
            free, self._free = self._free, []
        for buffer in free:
            buffer.close()


def _size(buffer: Buffer) -> int:
    return buffer.num_bytes
