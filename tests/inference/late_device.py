"""A device without hardware: memory of its own, and copies that happen as late, and as far out of order, as they may.

What a stream is told happens only when somebody waits for a mark behind it; then the latest goes first, unless it
touches bytes that an earlier one touches. So whoever forgets to wait reads, or copies, other bytes than it should.
"""

import threading

import torch

from tests.inference.paged_reference import ReferenceKernels

GARBAGE = 0xFF
"""What fresh memory holds: every float of such bytes is NaN."""


def span(tensor):
    return range(tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes)


def overlap(one, other):
    return one.start < other.stop and other.start < one.stop


class Copy:
    def __init__(self, target, source):
        self.target, self.source = target, source
        self.writes, self.reads = span(target), span(source)

    def depends_on(self, earlier):
        return overlap(self.writes, earlier.writes) or overlap(self.reads, earlier.writes) or overlap(
            self.writes, earlier.reads
        )  # fmt: skip


class Stream:
    def __init__(self, fault_after=None):
        self.pending, self.num_told = [], 0
        self.fault_after = fault_after
        self.lock = threading.Lock()

    def tell(self, copy):
        with self.lock:
            self.num_told += 1
            self.pending.append((self.num_told, copy))

    def reach(self, number):
        """Do everything up to and including that copy, the latest that can go first."""
        with self.lock:
            due = [copy for at, copy in self.pending if at <= number]
            self.pending = [(at, copy) for at, copy in self.pending if at > number]
            if self.fault_after is not None and number > self.fault_after:
                raise RuntimeError("an illegal memory access was encountered")
            while due:
                ready = next(i for i in reversed(range(len(due))) if not any(map(due[i].depends_on, due[:i])))
                copy = due.pop(ready)
                copy.target.copy_(copy.source)


class Mark:
    """Like CUDA's: one that was not recorded keeps nobody waiting."""

    stream, number = None, 0

    def record(self, stream):
        self.stream, self.number = stream, stream.num_told

    def synchronize(self):
        if self.stream is not None:
            self.stream.reach(self.number)

    def wait(self):
        self.synchronize()  # the computing that follows is the host's own


class LateGraph:
    """What was recorded is done again by the same calls on the same tensors: what the host has learnt since is not in
    it, as it would not be on a GPU."""

    def __init__(self, work):
        self.work, self.found, self.num_replays = work, work(), 0

    def replay(self):
        self.num_replays += 1
        self.found.copy_(self.work())


class Fetched:
    def __init__(self, tensor):
        self.source, self.was = tensor, tensor.clone()

    def wait(self):
        same = torch.equal(self.source.nan_to_num(9.0), self.was.nan_to_num(9.0))
        assert same, "changed while it was on its way to the host"
        return self.was


class LateDevice:
    torch_device = torch.device("cpu")

    def __init__(self, fault_after=None, free_bytes=4 << 30, graphs=True):
        self.fault_after, self.free, self.has_graphs = fault_after, free_bytes, graphs
        self.pinned_bytes = self.device_bytes = self.copied_bytes = 0
        self.graphs = []

    def empty(self, num_bytes):
        self.device_bytes += num_bytes
        return torch.full((num_bytes,), GARBAGE, dtype=torch.uint8)

    def pinned(self, num_bytes):
        self.pinned_bytes += num_bytes
        return torch.full((num_bytes,), GARBAGE, dtype=torch.uint8)

    def stream(self):
        return Stream(self.fault_after)

    def copy(self, stream, target, source):
        assert target.shape == source.shape
        self.copied_bytes += source.nbytes
        stream.tell(Copy(target, source))

    def event(self):
        return Mark()

    def put(self, tensor):
        assert tensor.is_contiguous()
        return tensor.clone()

    def fetch(self, tensor):
        return Fetched(tensor)

    def capture(self, work):
        if not self.has_graphs:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.graphs.append(LateGraph(work))
        return self.graphs[-1], self.graphs[-1].found

    def free_bytes(self):
        return self.free

    def kernels(self):
        return ReferenceKernels()
