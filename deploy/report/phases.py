"""From the client's clock and the hops' receipts to phases that exclude each other and sum to the wall time. Pure.

Each hop measures its own wall time and the phases in it, on its own clock; no clock is compared with another's.
What lies between two hops is a difference of durations: a hop's time upstream minus the next hop's total is the
network between them, there and back. What no hop accounts for is `unattributed`, never hidden, negative if the
hops claim more than the client saw.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

UNATTRIBUTED = "unattributed"
TOLERANCE = 0.02  # of the wall time: more than this unattributed, and the request is marked
HOPS = ("edge", "gateway", "node")
UPSTREAM = frozenset({"first_byte", "stream"})  # a hop's time in the hands of the next one
AFTER_FIRST_TOKEN = frozenset({"stream", "decode", "finish"})
WAKE = "gateway.wake"
LATE = "client.late"


class Family(StrEnum):
    """What a phase is spent on; one colour each."""

    CLIENT = "client"
    NETWORK = "network"
    EDGE = "edge"
    GATEWAY = "gateway"
    WAKE = "wake"
    PULL = "from home"
    FORK = "process"
    FETCH = "bytes"
    ATTACH = "attach"
    FIRST = "first run"
    PROMPT = "prompt"
    PREFILL = "prefill"
    DECODE = "decode"
    UNATTRIBUTED = "unattributed"


@dataclass(frozen=True, slots=True)
class PhaseName:
    """How one phase is shown: its words and its family."""

    label: str
    family: Family


KNOWN: Mapping[str, PhaseName] = {  # in the order in which a request meets them
    LATE: PhaseName("sent after it was due", Family.CLIENT),
    "net.client": PhaseName("client to edge and back", Family.NETWORK),
    "edge.read": PhaseName("edge reads the request", Family.EDGE),
    "edge.route": PhaseName("edge chooses the region", Family.EDGE),
    "edge.connect": PhaseName("edge connects to the region", Family.NETWORK),
    "edge.send": PhaseName("edge asks the region", Family.EDGE),
    "net.region": PhaseName("edge to region and back", Family.NETWORK),
    "gateway.read": PhaseName("gateway reads the request", Family.GATEWAY),
    "gateway.pick": PhaseName("gateway picks a host", Family.GATEWAY),
    "gateway.wake": PhaseName("wake, the rest", Family.WAKE),
    "gateway.heard": PhaseName("a start's end reaches who waited", Family.WAKE),
    "start.pull": PhaseName("bytes from the home region", Family.PULL),
    "start.queue": PhaseName("waits for room", Family.WAKE),
    "start.prepare": PhaseName("config and tokenizer read", Family.WAKE),
    "start.fork": PhaseName("worker forked", Family.FORK),
    "start.spawn": PhaseName("external engine spawned", Family.FORK),
    "start.boot": PhaseName("worker's first steps", Family.FORK),
    "start.fetch": PhaseName("bytes into memory", Family.FETCH),
    "start.verify": PhaseName("bytes checked", Family.FETCH),
    "start.folder": PhaseName("weights laid out as files", Family.ATTACH),
    "start.convert": PhaseName("weights converted", Family.ATTACH),
    "start.load": PhaseName("external engine loads", Family.ATTACH),
    "start.attach": PhaseName("weights attached", Family.ATTACH),
    "start.warm": PhaseName("first run", Family.FIRST),
    "start.first": PhaseName("first run", Family.FIRST),
    "start.text": PhaseName("tokenizer made", Family.WAKE),
    "start.order": PhaseName("start ordered, and its end heard", Family.WAKE),
    "gateway.connect": PhaseName("gateway connects to the worker", Family.NETWORK),
    "gateway.send": PhaseName("gateway asks the worker", Family.GATEWAY),
    "net.node": PhaseName("gateway to worker and back", Family.NETWORK),
    "node.read": PhaseName("worker reads the request", Family.PROMPT),
    "node.template": PhaseName("chat template", Family.PROMPT),
    "node.tokenize": PhaseName("tokens", Family.PROMPT),
    "node.queue": PhaseName("queue", Family.PROMPT),
    "node.weights": PhaseName("waits for its layers", Family.FETCH),
    "node.prefill": PhaseName("prefill", Family.PREFILL),
    "node.decode": PhaseName("decode", Family.DECODE),
    "node.finish": PhaseName("worker ends the answer", Family.PROMPT),
    "gateway.finish": PhaseName("gateway ends the answer", Family.GATEWAY),
    "edge.finish": PhaseName("edge ends the answer", Family.EDGE),
    UNATTRIBUTED: PhaseName("unattributed", Family.UNATTRIBUTED),
}
_ORDER = {name: place for place, name in enumerate(KNOWN)}
_BY_PREFIX = {
    "client": Family.CLIENT,
    "edge": Family.EDGE,
    "gateway": Family.GATEWAY,
    "start": Family.WAKE,
    "node": Family.PROMPT,
    "net": Family.NETWORK,
}


def shown(name: str) -> PhaseName:
    """How a phase is shown; one that this table does not know keeps its own name."""
    return KNOWN.get(name) or PhaseName(name, _BY_PREFIX.get(name.partition(".")[0], Family.UNATTRIBUTED))


def in_order(names: Iterable[str]) -> list[str]:
    """Phase names as a request meets them; an unknown one follows its hop's known ones."""
    last = {name.partition(".")[0]: place for name, place in _ORDER.items()}
    return sorted(
        names, key=lambda name: (_ORDER.get(name, last.get(name.partition(".")[0], 99) + 0.5), name)
    )


@dataclass(frozen=True, slots=True)
class Hop:
    """What one hop said: its wall time and its phases, in ms; `start_ms` is what a wake was spent on.

    `first_ms` is its own clock at the first token, where it says so.
    """

    name: str
    total_ms: float
    phases_ms: Mapping[str, float]
    start_ms: Mapping[str, float] = field(default_factory=dict)
    first_ms: float | None = None

    @property
    def own_ms(self) -> dict[str, float]:
        """The phases in which the hop itself worked."""
        return {name: ms for name, ms in self.phases_ms.items() if name not in UPSTREAM}

    @property
    def upstream_ms(self) -> float:
        """Wall time in the hands of the next hop."""
        return sum(ms for name, ms in self.phases_ms.items() if name in UPSTREAM)

    def until_first(self) -> "Hop":
        """The same hop as if it had ended with the first token."""
        before = {name: ms for name, ms in self.phases_ms.items() if name not in AFTER_FIRST_TOKEN}
        total_ms = sum(before.values()) if self.first_ms is None else self.first_ms
        return replace(self, total_ms=total_ms, phases_ms=before)


@dataclass(frozen=True, slots=True)
class Breakdown:
    """`phases_ms` in order, `unattributed` last; they sum to `wall_ms`.

    `scaled` says that a wake's overlapping parts were scaled down to the wake's own wall time.
    """

    wall_ms: float
    phases_ms: Mapping[str, float]
    scaled: bool = False

    @property
    def unattributed_ms(self) -> float:
        """What no hop accounts for; negative if they claim too much."""
        return self.phases_ms.get(UNATTRIBUTED, 0.0)

    @property
    def unattributed_share(self) -> float:
        """Its size relative to the wall time."""
        return abs(self.unattributed_ms) / self.wall_ms if self.wall_ms > 0 else 0.0

    def after(self, late_ms: float) -> "Breakdown":
        """The same request on a clock that began `late_ms` before it was sent."""
        if late_ms <= 0:
            return self
        return replace(self, wall_ms=self.wall_ms + late_ms, phases_ms={LATE: late_ms, **self.phases_ms})

    @property
    def holds(self) -> bool:
        """Whether the phases account for the wall time within the tolerance."""
        return self.unattributed_share <= TOLERANCE


def _figures(value: object) -> dict[str, float]:
    """The finite, non-negative figures of a mapping that came over the wire."""
    if not isinstance(value, Mapping):
        return {}
    return {
        str(name): float(ms)
        for name, ms in value.items()
        if isinstance(ms, int | float) and not isinstance(ms, bool) and 0 <= ms < math.inf
    }


def hop_of(receipt: Mapping[str, object]) -> Hop | None:
    """The hop in a stream's receipt, or None if it is not one: receipts come over the wire and may hold anything."""
    name, figures = receipt.get("hop"), _figures(receipt)
    if name not in HOPS or "total_ms" not in figures:
        return None
    start = _figures(receipt.get("start_phases"))
    return Hop(
        str(name),
        figures["total_ms"],
        _figures(receipt.get("phases")),
        {part.removeprefix("start."): ms for part, ms in start.items()},
        figures.get("time_to_first_token_ms"),
    )


def hops_of_timing(timing: Mapping[str, float]) -> list[Hop]:
    """The hops in a parsed `Server-Timing` header: `{"edge": total, "edge.read": ms, ...}`.

    There `hop.start.*` are parts of a wake before the request, in no hop's total.
    """
    return [
        Hop(hop, timing[hop], _below(timing, f"{hop}.", f"{hop}.start."), _below(timing, f"{hop}.start."))
        for hop in HOPS
        if hop in timing
    ]


def _below(timing: Mapping[str, float], prefix: str, without: str = "\0") -> dict[str, float]:
    names = (name for name in timing if name.startswith(prefix) and not name.startswith(without))
    return {name[len(prefix) :]: timing[name] for name in names}


def _divided_wake(wake_ms: float, start_ms: Mapping[str, float]) -> tuple[dict[str, float], bool]:
    """A wake's wall time by what it was spent on; parts that overlapped are scaled to fit in it."""
    total = sum(start_ms.values())
    if wake_ms <= 0 or total <= 0:
        return ({WAKE: wake_ms} if wake_ms > 0 else {}), False
    scale = min(1.0, wake_ms / total)
    parts = {f"start.{name}": ms * scale for name, ms in start_ms.items()}
    return parts | {WAKE: max(0.0, wake_ms - total)}, scale < 1.0


def _own(hop: Hop) -> dict[str, float]:
    """The hop's own phases under their full names."""
    return {n if n.startswith("start.") else f"{hop.name}.{n}": ms for n, ms in hop.own_ms.items()}


def _spent(hops: Sequence[Hop], wall_ms: float) -> tuple[dict[str, float], bool]:
    """Every phase of a whole exchange that took the client ``wall_ms``."""
    by_name = {hop.name: hop for hop in hops}
    spent: dict[str, float] = {}
    outer_ms, link = wall_ms, "net.client"
    links = {"edge": "net.region", "gateway": "net.node"}
    for name in HOPS:
        hop = by_name.get(name)
        if hop is None:
            continue
        spent[link] = outer_ms - hop.total_ms
        spent |= _own(hop)
        outer_ms, link = hop.upstream_ms, links.get(name, "")
    start_ms: dict[str, float] = {}
    for name in reversed(
        HOPS
    ):  # the gateway knows of the bytes that it pulled before the worker knew anything
        start_ms |= by_name[name].start_ms if name in by_name else {}
    parts, scaled = _divided_wake(spent.pop(WAKE, 0.0), start_ms)
    for name, ms in parts.items():
        spent[name] = spent.get(name, 0.0) + ms
    return spent, scaled


def _balanced(spent: Mapping[str, float], wall_ms: float, *, scaled: bool) -> Breakdown:
    """The breakdown: no phase below zero; what the hops leave out, or claim too much, is `unattributed`."""
    kept = {name: ms for name, ms in spent.items() if ms > 0}
    phases = {name: kept[name] for name in in_order(kept)}
    return Breakdown(wall_ms, phases | {UNATTRIBUTED: wall_ms - sum(phases.values())}, scaled)


def whole(hops: Sequence[Hop], wall_ms: float) -> Breakdown:
    """The phases of a whole exchange. Without any receipt everything is unattributed."""
    spent, scaled = _spent(hops, wall_ms)
    return _balanced(spent, wall_ms, scaled=scaled)


def first_token(hops: Sequence[Hop], ttft_ms: float) -> Breakdown:
    """The phases before the first token, by what each hop's clock said when the first token passed it."""
    return whole([hop.until_first() for hop in hops], ttft_ms)
