"""What the node needs from its shell and from the weights cache, as Protocols: the real ones and the tests' fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping, Sequence

    from weights_cache.model.plan import MappedFile
    from weights_cache.model.revision import Revision


class LandingProgress(Protocol):
    """How far a landing is, in bytes, and the seconds that are left (None until something landed)."""

    @property
    def done_bytes(self) -> int:
        """Landed and verified."""

    @property
    def total_bytes(self) -> int:
        """All of the weights."""

    @property
    def eta_s(self) -> float | None:
        """Seconds until it is whole, by this landing's own rate."""


class Landing(Protocol):
    """A revision's weights in host memory, or on their way there (`weights_cache.cache.Landing`)."""

    @property
    def fd(self) -> int:
        """Descriptor of the memory, for the engine process."""

    @property
    def ready_fd(self) -> int:
        """Descriptor of the flags, one byte an extent."""

    @property
    def event_fd(self) -> int:
        """Descriptor that wakes who waits for a flag."""

    @property
    def mapped(self) -> Sequence[MappedFile]:
        """Files that are not in that memory but mapped where the store of this host has them."""

    @property
    def mapped_fds(self) -> Sequence[int]:
        """Their descriptors, in the same order."""

    @property
    def mapped_bytes(self) -> int:
        """Bytes of this landing's weights that are mapped so, with no copy."""

    @property
    def copied_bytes(self) -> int:
        """Bytes of this landing that are copied from files the store handed over."""

    @property
    def host_bytes(self) -> int:
        """Bytes of this landing that were on this host already: of an earlier one, or of another revision."""

    @property
    def shared_bytes(self) -> int:
        """Those of them that another revision has too."""

    @property
    def source(self) -> Literal["region", "host"]:
        """Where the bytes were found."""

    @property
    def total_bytes(self) -> int:
        """Bytes of weights."""

    @property
    def bytes_read(self) -> int:
        """Bytes read from the region's store for this landing."""

    @property
    def phases(self) -> Mapping[str, float]:
        """Milliseconds of its own work, which overlaps with the engine's."""

    @property
    def error(self) -> Exception | None:
        """Why it failed, if it did."""

    def progress(self) -> LandingProgress:
        """How far it is."""

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the whole; False when `timeout_s` passed. Raises LandingError. Blocks."""

    def release(self) -> None:
        """Unpin it, once every process that maps it has ended."""


class CacheEntry(Protocol):
    """One revision in the host's memory."""

    @property
    def revision_id(self) -> str:
        """Its id."""

    @property
    def model(self) -> str:
        """Its model's name."""

    @property
    def num_bytes(self) -> int:
        """The memory it holds."""

    @property
    def mapped_bytes(self) -> int:
        """How much of it are locked pages of the store's own files."""

    @property
    def landed(self) -> bool:
        """Whether all of it is here."""


class Tier(Protocol):
    """The host's weights (`weights_cache.cache.HostTier`). Methods block: call them in a thread."""

    def land(self, revision: Revision, *, pin: bool = False) -> Landing:
        """The revision's landing, pinned; starts to fetch what is missing and returns at once."""

    def small_files(self, revision: Revision) -> Mapping[str, bytes]:
        """The model's other files, verified."""

    def entries(self) -> Sequence[CacheEntry]:
        """What is here or on its way."""

    @property
    def store_bytes_per_s(self) -> float | None:
        """Measured bandwidth from the region's store; None before any load."""

    def evict(self, revision_id: str) -> int:
        """Forget an unpinned landing; returns the bytes that became free."""

    def close(self) -> None:
        """Stop every reader and free everything."""


class Shell(Protocol):
    """The process that forks engines (`inference.workers.shell.standing.StandingShell`)."""

    @property
    def is_up(self) -> bool:
        """Whether a fork would be done at once."""

    @property
    def pid(self) -> int | None:
        """Its process; None while there is none."""

    async def fork(self, spec: Mapping[str, Any], fds: Sequence[int], key: str = "") -> tuple[int, float]:
        """Fork an engine with (landing, ready, event, link); returns its pid and the milliseconds it took.

        `key`: the name of the mold to use if there is one.
        """

    def mold_soon(self, spec: Mapping[str, Any], key: str) -> None:
        """Once nobody waits for it, have engines of this spec's revision made ahead as far as that goes. Once a key."""

    async def inspect(self, request: Mapping[str, Any], deadline_s: float) -> dict[str, Any]:
        """What transformers says about a model, from a throw-away child."""

    def exited(self, pid: int) -> asyncio.Future[int]:
        """Done once that engine's process has ended."""

    async def close(self) -> None:
        """End the shell."""
