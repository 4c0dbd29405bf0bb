"""One loader in a process of its own, its imports done: `python -m bench.starts.loaders NAME`.

Each line of standard input is an order (`Order` as JSON), each line of standard output its answer: the seconds from
the ask to a dictionary of tensors, and a digest of the last one, taken after the clock stopped. All loaders read the
same object of the same store. Ours is the host tier as a node has it, and an engine's view of what it lands.
"""

import importlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from storage.client.sdk import Endpoint
from weights_cache.cache import HostTier
from weights_cache.memory.view import LandingView, open_landing
from weights_cache.model.revision import Revision
from weights_cache.reading.handoff import StoreHandoff

if TYPE_CHECKING:
    import torch

MIB = 1 << 20
POLL_S = 0.05
EVICT_S = 10.0  # a landing that is whole is over in microseconds

Tensors = dict[str, "torch.Tensor"]


@dataclass(frozen=True, slots=True)
class Order:
    """What to load: `bucket`/`key` of a store, the file with its revision, and a folder in memory for who needs one."""

    url: str
    access_key: str
    secret: str
    bucket: str
    key: str
    num_bytes: int
    revision: str
    scratch: str
    socket: str = ""
    """Where a store of this host hands over its files."""

    @property
    def store(self) -> Endpoint:
        """The store and who we are to it."""
        return Endpoint(self.url, self.access_key, self.secret)

    def line(self) -> str:
        """As it is sent."""
        return json.dumps(asdict(self)) + "\n"


class Loader(Protocol):
    """One way from a store's bytes to tensors. Only `load` is timed."""

    def prepare(self, order: Order) -> None:
        """What stands before a request comes."""
        ...

    def load(self, order: Order) -> Tensors:
        """All tensors of the file, every byte in memory."""
        ...

    def let_go(self) -> None:
        """Free the memory; the tensors are dropped by then."""
        ...


class Ours:
    """The host tier and a view as an engine maps it. Every extent is verified. Over HTTP unless `handed` over."""

    def __init__(self, *, pooled: bool = False, handed: bool = False) -> None:
        self._pooled, self._handed = pooled, handed
        self._tier: HostTier | None = None
        self._order: Order | None = None
        self._view: LandingView | None = None
        self._revision: Revision | None = None

    def prepare(self, order: Order) -> None:
        """A tier without weights; with a pool, one that is there and has loaded before, as on a node that is up."""
        importlib.import_module("torch")
        self._revision = Revision.from_json(Path(order.revision).read_bytes())
        pool_bytes = order.num_bytes + MIB if self._pooled else 0
        if self._tier is None or self._order != order:
            self.close()
            handoff = StoreHandoff(Path(order.socket), order.store) if self._handed else None
            self._tier = HostTier(order.store, 2 * order.num_bytes, pool_bytes=pool_bytes, handoff=handoff)
            self._order = order
        while self._tier.pooled_bytes < pool_bytes:
            time.sleep(POLL_S)

    def load(self, order: Order) -> Tensors:
        """Land it and map it."""
        del order
        if self._tier is None or self._revision is None:
            raise RuntimeError("prepare comes first")
        landing = self._tier.land(self._revision)
        if landing.source == "host":
            raise RuntimeError("the weights of the load before were still here: this one would load nothing")
        view = self._view = open_landing(
            self._revision,
            landing.fd,
            landing.ready_fd,
            landing.event_fd,
            landing.mapped,
            landing.mapped_fds,
        )
        tensors = _views(self._revision, view)
        view.wait_all()
        if self._handed and landing.mapped_bytes < landing.total_bytes:
            raise RuntimeError(
                "the store did not hand over its files, or this host does not let them be locked"
            )
        return tensors

    def let_go(self) -> None:
        """The view first: the landing's memory lives in it too."""
        if self._view is not None:
            self._view.close()
        if self._pooled and self._tier is not None and self._revision is not None:
            self._evict(self._tier, self._revision.id)  # what it knows of the store stays, as on a node
        else:
            self.close()

    @staticmethod
    def _evict(tier: HostTier, revision_id: str) -> None:
        """Its memory goes back to the pool; the last byte is there a moment before the landing is over."""
        until = time.monotonic() + EVICT_S
        while not tier.evict(revision_id):
            if time.monotonic() > until:
                raise RuntimeError("the weights could not be let go of")
            time.sleep(POLL_S)

    def close(self) -> None:
        """The tier and its memory."""
        if self._tier is not None:
            self._tier.close()
            self._tier = None


def _views(revision: Revision, view: LandingView) -> Tensors:
    import torch

    flat = torch.frombuffer(view.buffer, dtype=torch.uint8)
    starts = {entry.name: (view.layout.place(entry), entry) for entry in revision.tensors}
    return {
        name: flat[start : start + entry.length].view(torch.float32).view(entry.shape)
        for name, (start, entry) in starts.items()
    }


def _peer(name: str) -> Callable[[], Loader]:
    """A loader of another team; its module is loaded only in its own process."""

    def make() -> Loader:
        made: Loader = getattr(importlib.import_module("bench.starts.peers"), name)()
        return made

    return make


LOADERS: Mapping[str, Callable[[], Loader]] = MappingProxyType(
    {
        "handed": lambda: Ours(handed=True),
        "pooled": lambda: Ours(pooled=True),
        "fresh": Ours,
        "boto3": _peer("Boto3"),
        "runai": _peer("Runai"),
    }
)


def main() -> None:
    """Answer orders until there are no more."""
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints is no answer
    loader = LOADERS[sys.argv[1]]()
    for line in sys.stdin:
        _answer(loader, Order(**json.loads(line)), answers)


def _answer(loader: Loader, order: Order, answers: TextIO) -> None:
    loader.prepare(order)
    started = time.perf_counter()
    tensors = loader.load(order)
    seconds = time.perf_counter() - started
    answer: dict[str, Any] = {"seconds": seconds, "num_tensors": len(tensors), "digest": _digest(tensors)}
    tensors.clear()
    loader.let_go()
    print(json.dumps(answer), file=answers, flush=True)


def _digest(tensors: Tensors) -> str:
    """Of the tensor whose name sorts last."""
    import torch
    import xxhash

    bits: Any = tensors[max(tensors)].reshape(-1).view(torch.uint8).numpy()
    return xxhash.xxh3_64_hexdigest(bits)


if __name__ == "__main__":
    main()
