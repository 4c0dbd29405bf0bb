"""Steps as recorded graphs: one launch for a step instead of a thousand, which small steps wait for.

A graph is of one size, so a step is padded to the next size with rows of nobody's. It is captured when steps of that
size have been computed a few times the plain way: the first tokens after a cold start do not wait for it, and by then
every kernel in it is compiled. A size that can't be captured is computed the plain way for good.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from inference.engine.gpu.paged import PagedStep

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256)
"""Rows of the graphs: half as many again at most are padding, and nothing is where it matters, in a full batch."""
PLAIN_STEPS = 2
"""Of one size, before it is captured."""


class Graph(Protocol):
    """Recorded work on a device."""

    def replay(self) -> None:
        """Do it again, with what its inputs hold now."""


class Recorder(Protocol):
    """A device that records (`inference.engine.gpu.device.Device`)."""

    def capture(self, work: Callable[[], torch.Tensor]) -> tuple[Graph, torch.Tensor]:
        """Record what `work` does; a replay's result lies in the tensor. Raises RuntimeError."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One size's graph, what to fill before a replay, and where its logits then are.

    The step is kept because the graph reads its tensors where they lay: memory given out again would be read as them.
    """

    graph: Graph
    inputs: torch.Tensor
    logits: torch.Tensor
    step: PagedStep


class Records:
    """Graphs by size. `compute` is the plain way; `is_ready` says when capturing may begin."""

    def __init__(
        self,
        device: Recorder,
        compute: Callable[[PagedStep], torch.Tensor],
        is_ready: Callable[[], bool],
    ) -> None:
        self._device, self._is_ready = device, is_ready
        self.compute = compute
        self._seen: Counter[int] = Counter()
        self._found: dict[int, Recorded] = {}
        self._refused: set[int] = set()

    @property
    def sizes(self) -> list[int]:
        """What is captured."""
        return sorted(self._found)

    def of(self, size: int, nobodys: Callable[[], tuple[torch.Tensor, PagedStep]]) -> Recorded | None:
        """The graph of that size, now or never captured; `nobodys` makes inputs that are nobody's, and their step."""
        if size in self._found:
            return self._found[size]
        self._seen[size] += 1
        if size in self._refused or self._seen[size] <= PLAIN_STEPS or not self._is_ready():
            return None
        inputs, step = nobodys()
        try:
            graph, logits = self._device.capture(lambda: self.compute(step))
        except RuntimeError:
            self._refused.add(size)
            return None
        self._found[size] = Recorded(graph, inputs, logits, step)
        return self._found[size]


class DecodeGraphs:
    """Computes steps of one token a row."""

    def __init__(self, records: Records, nobody: int) -> None:
        self._records, self._nobody = records, nobody

    @property
    def sizes(self) -> list[int]:
        """What is captured."""
        return self._records.sizes

    def run(self, packed: torch.Tensor) -> torch.Tensor:
        """The logits [rows, vocabulary] of `packed`, [ids, positions, slots] of each row.

        They may be overwritten by the next run, in the order of what the device is told.
        """
        num_rows = packed.shape[1]
        size = next_size(SIZES, num_rows)
        found = None if size is None else self._records.of(size, lambda: self._nobodys(size, packed))
        if found is None:
            return self._records.compute(PagedStep.of_singles(packed))
        found.inputs[:, :num_rows] = packed
        found.inputs[:2, num_rows:] = 0
        found.inputs[2, num_rows:] = self._nobody
        found.graph.replay()
        return found.logits[:num_rows]

    def _nobodys(self, size: int, like: torch.Tensor) -> tuple[torch.Tensor, PagedStep]:
        inputs = torch.zeros(3, size, dtype=like.dtype, device=like.device)
        inputs[2] = self._nobody
        return inputs, PagedStep.of_singles(inputs)


def next_size(sizes: Sequence[int], number: int) -> int | None:
    """The least of these ascending sizes that is not smaller; None if all are."""
    at = bisect_left(sizes, number)
    return sizes[at] if at < len(sizes) else None
