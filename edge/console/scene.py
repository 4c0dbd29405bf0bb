"""What the console's page is told of the platform, second by second. Pure: looks in, JSON-ready values out.

A look has the regions as this edge sees them and what its processes carried. What moves is the difference between two
looks: requests by answers, bytes by what regions say of how far behind home they are and how far a start has come.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from edge.console.company import company, counts
from regions.map.region import Tier

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from edge.pops.hear import Other
    from edge.receipts.kept import Flow
    from regions.map.region import ModelRow
    from regions.rows import Heard

MAX_RECEIPTS: Final = 256
MODELS_A_PIECE: Final = 400  # some 150 KB: a browser draws between two pieces
WINDOW_S: Final = 10.0  # over which a rate is taken: shorter, and one request looks like a burst
IN_MEMORY: Final = frozenset({Tier.HOST, Tier.RESIDENT})
NO_ROWS: Final[Mapping[str, ModelRow]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Seen:
    """A region as the edge sees it now; `heard_s` None: not since the edge has started."""

    heard: Heard | None
    heard_s: float | None
    rtt_ms: float | None
    breaker: str
    is_down: bool


@dataclass(frozen=True, slots=True)
class Look:
    """All that is seen at `at` (monotonic s), and in `facts` what needs no working out."""

    at: float
    regions: Mapping[str, Seen]
    flows: Sequence[Flow]
    facts: Mapping[str, Any]
    others: Mapping[str, Other] = field(default_factory=dict)


class Scene:
    """Looks made one picture; `state`, `receipts` and `models` are what pages ask for."""

    def __init__(self, num_processes: int) -> None:
        self.cursors = [0] * num_processes
        self.num = 0  # receipts ever
        self.state: dict[str, Any] = {}
        self._receipts: deque[dict[str, Any]] = deque(maxlen=MAX_RECEIPTS)
        self._rows: dict[str, Mapping[str, ModelRow]] = {}
        self._past: deque[tuple[float, Mapping[str, float]]] = deque()
        self._moved: dict[str, float] = {}

    def saw(self, look: Look) -> None:
        """Take a look in."""
        self._take_receipts(look.flows)
        rates = self._rates(look, self._take_rows(look))
        busy = _sums([flow.busy for flow in look.flows])
        self.state = {
            **look.facts,
            "window_s": WINDOW_S,
            "failed_per_s": round(rates.get("failed", 0.0), 2),
            "edges": company(look.others, rates),
            "regions": {
                name: {
                    **_region(seen),
                    "busy": int(busy.get(name, 0)),
                    "answers_per_s": round(rates.get(f"answered {name}", 0.0), 2),
                    "from_home_bytes_per_s": round(rates.get(f"pulled {name}", 0.0)),
                    "loading_bytes_per_s": round(rates.get(f"loaded {name}", 0.0)),
                }
                for name, seen in look.regions.items()
            },
        }

    def receipts(self, num: int) -> list[dict[str, Any]]:
        """Those behind the first `num`, oldest first."""
        num_new = min(self.num - num, len(self._receipts))
        return list(self._receipts)[len(self._receipts) - num_new :] if num_new > 0 else []

    def models(self, told: dict[str, Mapping[str, ModelRow]]) -> Iterator[dict[str, dict[str, Any]]]:
        """By region and model what differs from `told`, in pieces; None for what is no more. `told` is brought up."""
        piece: dict[str, dict[str, Any]] = {}
        num = 0
        for region, rows in self._rows.items():
            before, told[region] = told.get(region, {}), rows
            for name, row in _changed(before, rows):
                piece.setdefault(region, {})[name] = row and model_body(row)
                num += 1
                if num >= MODELS_A_PIECE:
                    yield piece
                    piece, num = {}, 0
        if piece:
            yield piece

    def _take_rows(self, look: Look) -> dict[str, float]:
        """The bytes that moved since the look before. A region that is new to us has moved nothing yet."""
        moved: dict[str, float] = {}
        for name, seen in look.regions.items():
            rows = seen.heard.row.models if seen.heard is not None else NO_ROWS
            if self._rows.get(name):
                moved |= _moves(name, self._rows[name], rows, is_home=name == look.facts.get("home"))
            self._rows[name] = rows
        return moved

    def _take_receipts(self, flows: Sequence[Flow]) -> None:
        for index, flow in enumerate(flows):
            if not flow.num and self.cursors[index]:
                continue  # it said nothing this time
            self.cursors[index] = flow.num
            fresh = sorted(flow.receipts, key=lambda each: float(each["at"]))
            self._receipts.extend(fresh)
            self.num += len(fresh)

    def _rates(self, look: Look, moved: Mapping[str, float]) -> Mapping[str, float]:
        """What grew since the oldest look in the window, by the second."""
        for key, num_bytes in moved.items():
            self._moved[key] = self._moved.get(key, 0.0) + num_bytes
        answered = _sums([flow.answered for flow in look.flows])
        now = {
            **{f"answered {name}": num for name, num in answered.items()},
            **self._moved,
            "failed": float(sum(flow.failed for flow in look.flows)),
        }
        theirs = counts(look.others)
        self._past.append((look.at, now | theirs))
        while look.at - self._past[0][0] > WINDOW_S:
            self._past.popleft()
        since, then = self._past[0]
        took_s = max(look.at - since, 1.0)
        grew = {name: value - then.get(name, 0.0) for name, value in now.items()}
        grew |= {name: value - self._first(name) for name, value in theirs.items()}
        return {name: max(0.0, num) / took_s for name, num in grew.items()}

    def _first(self, name: str) -> float:
        """A count of another edge when it was first heard in the window: all before that is no growth of now."""
        return next(now[name] for _, now in self._past if name in now)


def _changed(
    before: Mapping[str, ModelRow], now: Mapping[str, ModelRow]
) -> Iterator[tuple[str, ModelRow | None]]:
    """Models that differ, with their row or None; what did not change is mostly the same value."""
    if before is now:
        return
    for name, row in now.items():
        if row is not before.get(name):
            yield name, row
    for name in before.keys() - now.keys():
        yield name, None


def _moves(
    region: str, before: Mapping[str, ModelRow], now: Mapping[str, ModelRow], *, is_home: bool
) -> dict[str, float]:
    """Bytes of models that came from home, and into memory, between two rows of a region."""
    pulled = loaded = 0.0
    for name, row in _changed(before, now):
        old = before.get(name)
        pulled += max(0.0, _in_region(row) - _in_region(old))
        loaded += max(0.0, _in_memory(row) - _in_memory(old))
    return {f"pulled {region}": 0.0 if is_home else pulled, f"loaded {region}": loaded}


def _in_region(row: ModelRow | None) -> float:
    if row is None:
        return 0.0
    if row.tier is not Tier.ORIGIN:
        return float(row.bytes)
    return _part(row, "replicate")


def _in_memory(row: ModelRow | None) -> float:
    if row is None:
        return 0.0
    if row.tier in IN_MEMORY:
        return float(row.bytes)
    return _part(row, "fetch")


def _part(row: ModelRow, phase: str) -> float:
    progress = row.progress
    return row.bytes * progress.percent / 100 if progress is not None and progress.phase == phase else 0.0


def _sums(counts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for each in counts:
        for name, num in each.items():
            found[name] = found.get(name, 0.0) + num
    return found


def _region(seen: Seen) -> dict[str, Any]:
    row = seen.heard.row if seen.heard is not None else None
    return {
        "heard_s": None if seen.heard_s is None else round(seen.heard_s, 1),
        "rtt_ms": None if seen.rtt_ms is None else round(seen.rtt_ms, 3),
        "breaker": seen.breaker,
        "down": seen.is_down,
        "draining": row.draining if row else False,
        "num_models": len(row.models) if row else 0,
        "behind_bytes": row.behind_bytes if row else 0,
        "store_bytes_per_s": row.store_bytes_per_s if row else 0.0,
        "host_bytes_per_s": row.host_bytes_per_s if row else 0.0,
        "origin_bytes_per_s": row.origin_bytes_per_s if row else 0.0,
        "attach_s": row.attach_s if row else 0.0,
        "eta_error": row.eta_error if row else 0.0,
    }


def model_body(row: ModelRow) -> dict[str, Any]:
    """One model in one region, as far as the page shows it."""
    fault, progress = row.error, row.progress
    return {
        "revision": row.revision,
        "state": row.state,
        "tier": row.tier,
        "kind": row.kind,
        "bytes": row.bytes,
        "max_len": row.max_len,
        "running": row.running,
        "waiting": row.waiting,
        "slots": row.slots,
        "pushed_s": row.pushed_s,
        "step_ms": row.step_ms,
        "waits_for": row.waits_for,
        "error": fault and {"code": fault.code, "message": fault.message, "next": fault.next},
        "progress": progress
        and {"phase": progress.phase, "percent": progress.percent, "eta_s": progress.eta_s},
    }
