"""What a load may take, what it found and took, and why it failed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from inference.workers.board import LoadFailure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inference.link import Message
    from inference.workers.seams import Landing
    from weights_cache.memory.view import LandingError


SOURCES = ("remote", "region", "copied", "mapped", "host")
"""Where a load's bytes came from: another region, the region's store over HTTP, and of that store's files on this
host copied or mapped without a copy; or they were in the host's memory already."""


@dataclass(frozen=True, slots=True)
class Room:
    """What a worker may take: all of it in `num_bytes`, of which its slots `kv_bytes` and copies `packed_bytes`."""

    num_bytes: int
    kv_bytes: int
    max_slots: int
    num_threads: int
    packed_bytes: int = 0


@dataclass(slots=True)
class LoadReport:
    """What a load found and took. `phases` are milliseconds that exclude each other and make up `total_ms`.

    queue: waiting for room; prepare: config and tokenizer, which stand for a header here, since the extents are known;
    fork (spawn, of an external engine); boot: the new process up to its first work, and what it says on the way; fetch,
    verify: waiting for bytes and for their check; attach (of an external engine folder, convert, load); warm: slots and
    first run; text: the tokenizer, as far as it took longer than all else.
    """

    start: str = "resident"
    phases: dict[str, float] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SOURCES, 0))
    total_ms: float = 0.0
    copied_bytes: int = 0
    shared_bytes: int = 0
    h2d_bytes: int = 0
    h2d_ms: float | None = None
    """What the copies to a device took; of a start that did not wait for them, once it is known."""

    def note_ready(
        self,
        ready: Message,
        landing: Landing,
        laps: Mapping[str, float],
        birth: tuple[str, float],
        total_ms: float,
    ) -> None:
        """Take the engine's and the landing's figures, once the engine can answer.

        `laps` are the node's own: queue, prepare, fork, engine, text. What the engine waited for is shared out as the
        landing's own work was. An engine that starts before all bytes are here (`gated`) leaves the rest of the wait to
        the first request's prompt.
        """
        born, birth_ms = birth
        engine = {str(name): float(ms) for name, ms in dict(ready.get("phases") or {}).items()}
        # The engine may be at work before its shell was scheduled again to say that it was born.
        birth_ms = max(0.0, min(birth_ms, laps["fork"] + laps["engine"] - sum(engine.values())))
        boot_ms = laps["fork"] + laps["engine"] - birth_ms - sum(engine.values())
        waited_ms = engine.pop("wait", 0.0)
        work = landing.phases
        whole_ms = sum(work.values())
        verify_ms = waited_ms * work.get("verify", 0.0) / whole_ms if whole_ms else 0.0
        self.phases = {"queue": laps["queue"], "prepare": laps["prepare"], born: birth_ms}
        self.phases |= {"boot": max(0.0, boot_ms), "fetch": waited_ms - verify_ms, "verify": verify_ms}
        self.phases |= {**engine, "text": laps["text"]}
        self.start = landing.source
        self.copied_bytes = int(ready.get("copied_bytes") or 0)
        self.h2d_bytes = int(ready.get("h2d_bytes") or 0)
        self.h2d_ms = self.phases.get("h2d") or self.h2d_ms
        self.total_ms = total_ms
        self.note_bytes(landing)

    def note_bytes(self, landing: Landing) -> None:
        """Bytes by source; what a load still reads counts already, a part read twice counts twice."""
        total_bytes, read_bytes = landing.progress().total_bytes, landing.bytes_read
        self.shared_bytes = landing.shared_bytes
        self.bytes |= {"mapped": landing.mapped_bytes, "copied": landing.copied_bytes}
        rest_bytes = total_bytes - landing.mapped_bytes - landing.copied_bytes
        if landing.source == "host":
            self.bytes |= {"host": max(0, rest_bytes - read_bytes), "region": read_bytes}
        else:
            host_bytes = landing.host_bytes
            self.bytes |= {"host": host_bytes, "region": max(read_bytes, rest_bytes - host_bytes)}

    def note_stats(self, stats: Message) -> None:
        """Take what the engine came to know after it was ready."""
        if self.h2d_ms is None and "h2d_ms" in stats:
            self.h2d_ms = float(stats["h2d_ms"])

    def device(self) -> dict[str, Any]:
        """What went to a device and how long that took; nothing where the weights stay in host memory."""
        return {"h2d_bytes": self.h2d_bytes, "h2d_ms": self.h2d_ms} if self.h2d_bytes else {}

    def line(self) -> dict[str, Any]:
        """The last line of a load that succeeded."""
        return {
            "phase": "ready",
            "start": self.start,
            "phases": {name: round(ms, 3) for name, ms in self.phases.items()},
            "bytes": dict(self.bytes),
            "total_ms": round(self.total_ms, 3),
            "copied_bytes": self.copied_bytes,
            "shared_bytes": self.shared_bytes,
            **self.device(),
        }

    def words(self) -> str:
        """One line for the log: state, wall time, its phases, and the bytes by where they were."""
        phases = " ".join(f"{name}={ms:.1f}" for name, ms in self.phases.items())
        sources = " ".join(f"{name}={num_bytes}" for name, num_bytes in self.bytes.items() if num_bytes)
        shared = f" shared={self.shared_bytes}" if self.shared_bytes else ""
        return f"{self.start} in {self.total_ms:.1f} ms ({phases}), bytes {sources or 'none'}{shared}"


def stopped() -> LoadFailure:
    """The worker is to go while it loads."""
    return LoadFailure("model_not_ready", "the load was stopped", "ask again")


def is_short(cause: LandingError) -> bool:
    """Whether the weights found no place on this host: in its memory, under the cap or on the folder's disk."""
    return cause.code in {"host_full", "host_memory_full"}


def unreadable(cause: LandingError) -> LoadFailure:
    """The weights or files could not be brought into host memory."""
    short = is_short(cause)
    step = "stop another model or give the node more memory" if short else "it is tried again by itself"
    return LoadFailure("memory_short" if short else "weights_unreadable", cause.message, step)
