"""Waiting for bytes where they are needed: the first layers of a model run while the last ones still land."""

from __future__ import annotations

import time
from bisect import bisect_right
from typing import TYPE_CHECKING, Any, Protocol

from torch.nn import ModuleList

from inference.engine.attach.views import Place

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from torch import nn
    from transformers import PreTrainedModel

    from weights_cache.model.plan import Layout
    from weights_cache.model.revision import Revision

Wait = tuple["nn.Module", list[int]]
"""A module, and the extents that it needs."""


class Landed(Place, Protocol):
    """What `weights_cache.memory.view.LandingView` offers: bytes, and waiting for them."""

    def wait_extent(self, number: int) -> bool:
        """Wait for one extent; raises LandingError."""

    def wait_landed(self, number: int) -> bool:
        """As `wait_extent`, but whoever reads it maps its pages."""

    def wait_all(self) -> bool:
        """Wait for every extent; raises LandingError."""


class Waits(Protocol):
    """What makes modules wait for their bytes, once each."""

    waited_ms: float

    @property
    def num_closed(self) -> int:
        """Modules that have not run yet."""

    def figures(self) -> dict[str, float]:
        """What is known by now of work that goes on beside the passes."""


def units(model: nn.Module, names: Collection[str]) -> Iterator[tuple[nn.Module, list[str]]]:
    """The modules that wait, and which of `names`, those of its state dict, each waits for."""
    inside: tuple[str, ...] = ()
    stored = set(names)
    for path, module in model.named_modules():
        if path.startswith(inside):
            continue
        prefix = f"{path}." if path else ""
        if isinstance(module, ModuleList):
            layers = _by_layer(names, prefix)
            for number, layer in enumerate(module):
                yield layer, layers.get(str(number), [])
            inside = (*inside, prefix)
        else:
            own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
            yield module, [f"{prefix}{part}" for part, _ in own if f"{prefix}{part}" in stored]


def _by_layer(names: Iterable[str], prefix: str) -> dict[str, list[str]]:
    """The names below a list of modules, by the number that comes next."""
    found: dict[str, list[str]] = {}
    for name in names:
        if name.startswith(prefix):
            found.setdefault(name[len(prefix) :].partition(".")[0], []).append(name)
    return found


def waits_of(
    model: PreTrainedModel, revision: Revision, places: Layout, spans: Mapping[str, range | None]
) -> list[Wait]:
    """What each module that owns weights waits for; `spans`: for each weight the bytes of the landing that it views.

    A layer (an entry of an outermost module list) waits for all its weights before anything in it runs,
    any other module for those it owns itself.
    """
    order = sorted((places.place(extent), number) for number, extent in enumerate(revision.extents))
    starts, numbers = [start for start, _ in order], [number for _, number in order]

    def extents_of(span: range) -> list[int]:
        first = bisect_right(starts, span.start) - 1
        return numbers[max(0, first) : bisect_right(starts, span.stop - 1)]

    needed = (
        (module, {number for name in names if (span := spans[name]) for number in extents_of(span)})
        for module, names in units(model, spans)
    )
    return [(module, sorted(numbers)) for module, numbers in needed if numbers]


class Gates:
    """Makes a model wait for its bytes where it needs them, once."""

    def __init__(self, waits: Iterable[Wait], landed: Landed) -> None:
        self._landed = landed
        self.waited_ms = 0.0
        """Time that forward passes spent waiting for bytes."""
        self._closed: dict[nn.Module, Any] = {
            module: module.register_forward_pre_hook(self._hook(numbers)) for module, numbers in waits
        }

    @property
    def num_closed(self) -> int:
        """Modules that have not run yet."""
        return len(self._closed)

    def figures(self) -> dict[str, float]:
        """See `Waits`: bytes land without the engine."""
        return {}

    def _hook(self, numbers: list[int]) -> Any:
        def wait(module: nn.Module, _args: Any) -> None:
            started = time.perf_counter()
            for number in numbers:
                self._landed.wait_extent(number)
            self.waited_ms += (time.perf_counter() - started) * 1000
            self._closed.pop(module).remove()

        return wait
