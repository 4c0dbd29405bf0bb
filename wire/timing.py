"""Where the time of one request went, per hop: exclusive phases that sum to the hop's wall time.

Answers that do not stream carry it as `Server-Timing`, each hop appending its part; event streams carry one
comment line per hop after the last event: `: nearfield {...}`.
"""

import json
import re
import time
from collections.abc import Callable, Mapping
from json.encoder import encode_basestring_ascii

RECEIPT_BYTES = 16 * 1024  # a receipt line longer than this is not one of ours
_PREFIX = ": nearfield "
quoted: Callable[[str], str] = encode_basestring_ascii
"""A text as JSON writes it."""
_METRIC = re.compile(r"\s*([A-Za-z0-9._-]{1,64});dur=([0-9]{1,12}(?:\.[0-9]{1,9})?)\s*")


class Phases:
    """A stopwatch with named laps, in milliseconds; `hop` is `edge`, `gateway` or `node`."""

    __slots__ = ("_last", "_now", "hop", "items", "started")

    def __init__(
        self, hop: str, now: Callable[[], float] = time.perf_counter, started: float | None = None
    ) -> None:
        self.hop = hop
        self.items: dict[str, float] = {}
        self._now = now
        self.started = self._last = now() if started is None else started

    def mark(self, name: str, at: float | None = None) -> None:
        """Close the span since the last mark (or the start) under `name`; equal names add up.

        It ended `at` that moment if that is known, else now.
        """
        now = self._now() if at is None else max(at, self._last)
        self.items[name] = self.items.get(name, 0.0) + (now - self._last) * 1000
        self._last = now

    def add(self, name: str, ms: float) -> None:
        """Credit `ms` milliseconds to `name` that were measured elsewhere; no span is closed."""
        self.items[name] = self.items.get(name, 0.0) + ms

    def mark_sent(self, at: float, connect_s: float) -> None:
        """Close the span up to the moment a request left, as `send`; a new connection's making in it is `connect`."""
        if connect_s:
            self.add("connect", connect_s * 1000)
            self.add("send", -connect_s * 1000)
        self.mark("send", at)

    @classmethod
    def so_far(cls, hop: str, started: float, items: dict[str, float], last: float) -> "Phases":
        """One whose spans up to `last` were measured elsewhere: the next one begins there."""
        phases = cls(hop, started=started)
        phases.items, phases._last = items, last
        return phases

    @property
    def last(self) -> float:
        """The moment of the last mark, by the clock of `started`."""
        return self._last

    def total_ms(self) -> float:
        """The hop's wall time so far."""
        return (self._now() - self.started) * 1000

    def header(self) -> str:
        """A `Server-Timing` value: the hop's total, then each phase as `hop.phase`."""
        parts = [f"{self.hop};dur={self.total_ms():.3f}"]
        parts += [f"{self.hop}.{name};dur={ms:.3f}" for name, ms in self.items.items()]
        return ", ".join(parts)

    def comment(self, extra: Mapping[str, object] | None = None, last: str = "") -> bytes:
        """A stream's receipt: `: nearfield {"hop", "total_ms", "phases", ...extra}` and a blank line.

        `last` is the phase that ends with it, if one is open.
        """
        more = [f", {quoted(name)}: {json.dumps(value)}" for name, value in (extra or {}).items()]
        if last:
            self.mark(last)
        return self.receipt("".join(more))

    def receipt(self, more: str) -> bytes:
        """The same; `more` are its further members, written already (`, "name": value`), since a stream waits."""
        phases = ", ".join([f'"{name}": {ms:.3f}' for name, ms in self.items.items()])
        told = f'"hop": "{self.hop}", "total_ms": {self.total_ms():.3f}, "phases": {{{phases}}}{more}'
        return f"{_PREFIX}{{{told}}}\n\n".encode()


Spans = tuple[float, float, float, float, float]
"""In milliseconds: all, and four phases that fill it."""


class Form:
    """How a hop writes the four phases of a request that took its short way, as `Phases` would.

    Attributes:
        timing: a `Server-Timing` value, of `Spans` by `%`.
    """

    def __init__(self, hop: str, names: tuple[str, str, str, str]) -> None:
        self.hop, self.names = hop, names
        phases = ", ".join([f'"{name}": %.3f' for name in names])
        parts = [f"{hop};dur=%.3f", *(f"{hop}.{name};dur=%.3f" for name in names)]
        self.timing = ", ".join(parts).encode()
        told = f'"hop": "{hop}", "total_ms": %.3f, "phases": {{{phases}}}%b'
        self._receipt = f"{_PREFIX}{{{told}}}\n\n".encode()

    def read(self, words: bytes) -> tuple[float, dict[str, float]]:
        """In milliseconds: all, and the phases by their names, as `timing` said them."""
        said = parse_server_timing(words.decode())
        return said[self.hop], {name: said[f"{self.hop}.{name}"] for name in self.names}

    def receipt(self, spans: Spans, more: bytes) -> bytes:
        """A stream's receipt; `more` are its further members, written already."""
        return self._receipt % (*spans, more)


def parse_server_timing(value: str) -> dict[str, float]:
    """`"edge;dur=1.2, edge.read;dur=0.1"` as {name: ms}; entries of another form are skipped."""
    matches = (_METRIC.fullmatch(part) for part in value.split(","))
    return {match[1]: float(match[2]) for match in matches if match is not None}


def parse_receipt(line: bytes | str) -> dict[str, object] | None:
    """The receipt in one line of a stream, or None if it is anything else."""
    text = line.decode("utf-8", "replace") if isinstance(line, bytes) else line
    if not text.startswith(_PREFIX) or len(text) > RECEIPT_BYTES:
        return None
    try:
        receipt = json.loads(text.removeprefix(_PREFIX))
    except (ValueError, RecursionError):
        return None
    return receipt if isinstance(receipt, dict) else None
