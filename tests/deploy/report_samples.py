"""Requests as a platform would answer them, from made-up receipts: for tests of the report and for looking at it."""

import json
import random
from dataclasses import replace

from deploy.report.arms import Start
from deploy.report.document import Report, Settings, Tiers, document
from deploy.report.more.found import Ceiling, Found, Gap, Herd, Load, Place, Side, Split
from deploy.report.more.terms import load_terms
from deploy.report.reading import StreamReading
from deploy.report.sample import Clock, Sample, of_stream

WEIGHT_BYTES = 6_888_000
REVISION = "5b1f" * 16
START_PHASES = {
    Start.ORIGIN: {
        "pull": 412.0,
        "prepare": 3.1,
        "fork": 16.0,
        "fetch": 11.0,
        "verify": 2.0,
        "attach": 24.0,
        "warm": 31.0,
    },
    Start.REGION: {"prepare": 3.0, "fork": 15.0, "fetch": 10.0, "verify": 2.0, "attach": 24.0, "warm": 30.0},
    Start.HOST: {"prepare": 2.4, "fork": 15.0, "attach": 22.0, "warm": 29.0},
}
SOURCES = {
    Start.ORIGIN: {"remote": WEIGHT_BYTES, "region": WEIGHT_BYTES, "host": 0},
    Start.REGION: {"remote": 0, "region": WEIGHT_BYTES, "host": 0},
    Start.HOST: {"remote": 0, "region": 0, "host": WEIGHT_BYTES},
}


def line(receipt: dict[str, object]) -> bytes:
    """A receipt as a hop writes it."""
    return f": nearfield {json.dumps(receipt)}\n\n".encode()


def delta(text: str) -> bytes:
    """A chunk of a chat stream."""
    return f"data: {json.dumps({'choices': [{'index': 0, 'delta': {'content': text}}]})}\n\n".encode()


def receipts(start: Start, rng: random.Random, net_ms: float) -> tuple[list[dict[str, object]], float, float]:
    """The three hops' receipts, the wall time that a client `net_ms` away would see, and its time to first token."""

    def around(ms: float) -> float:
        return round(ms * rng.lognormvariate(0, 0.12), 3)

    node = {"read": 0.1, "template": 0.5, "tokenize": 0.2, "queue": 0.3, "prefill": around(2.6)}
    if start in SOURCES or start is Start.RESIDENT:
        node["prefill"] += around(1.4)
    before_ms = sum(node.values())
    node["decode"] = around(31.0)
    node_ms = sum(node.values()) + 0.03
    parts = {name: around(ms) for name, ms in START_PHASES.get(start, {}).items()}
    wake_ms = sum(parts.values()) + 1.8 if parts else 0.0
    upstream_ms = node_ms + 0.35
    gateway: dict[str, float] = {"read": 0.08, "pick": 0.05}
    gateway |= {"wake": wake_ms} if parts else {}
    gateway |= {"first_byte": before_ms + 0.25, "stream": upstream_ms - before_ms - 0.25}
    gateway_ms = sum(gateway.values()) + 0.02
    first_byte_ms = sum(gateway.values()) - gateway["stream"] + net_ms
    edge = {"read": 0.09, "route": 0.06, "first_byte": first_byte_ms, "stream": gateway["stream"] + 0.02}
    edge_ms = sum(edge.values()) + 0.02
    wall_ms = edge_ms + 0.4
    first_ms = wall_ms - node["decode"] + rng.uniform(-0.05, 0.05)
    made: list[dict[str, object]] = [
        {
            "hop": "node",
            "total_ms": node_ms,
            "phases": node,
            "start": start.value,
            "bytes": SOURCES.get(start, {"remote": 0, "region": 0, "host": 0}) | {"remote": 0},
            "start_phases": {name: ms for name, ms in parts.items() if name != "pull"},
            "prompt_tokens": 9,
            "completion_tokens": 24,
            "time_to_first_token_ms": before_ms,
        },
        {
            "hop": "gateway",
            "total_ms": gateway_ms,
            "phases": gateway,
            "remote_bytes": SOURCES.get(start, {}).get("remote", 0),
            **({"start": start.value, "start_phases": parts} if parts else {}),
            **(
                {"eta": {"expected_ms": round(wake_ms * 1.25, 3), "took_ms": round(wake_ms, 3)}}
                if parts
                else {}
            ),
        },
        {"hop": "edge", "total_ms": edge_ms, "phases": edge},
    ]
    return made, wall_ms, first_ms


def sample(region: str, start: Start, rng: random.Random, net_ms: float = 0.5) -> Sample:
    """One request, through the same reading as a real one."""
    made, wall_ms, first_ms = receipts(start, rng, net_ms)
    reading = StreamReading()
    reading.receive(delta("Near"), first_ms / 1000)
    reading.receive(delta("field."), (wall_ms - 1) / 1000)
    reading.receive(b"data: [DONE]\n\n" + b"".join(line(receipt) for receipt in made), wall_ms / 1000)
    headers = {
        "x-nearfield-start": start.value,
        "x-nearfield-revision": REVISION,
        "x-request-id": f"req_{rng.getrandbits(64):x}",
    }
    return of_stream(region, start, headers, reading, Clock(0.0, wall_ms / 1000))


def settings(num_cold: int, num_warm: int, regions: tuple[str, ...] = ("iad", "fra", "nrt")) -> Settings:
    return Settings(
        model="acme/tinychat",
        kind="generate",
        regions=regions,
        num_cold=num_cold,
        num_warm=num_warm,
        seed=7,
        prompt="What is Nearfield?",
        max_tokens=32,
        made_at="2026-02-03T10:11:12+00:00",
        took_s=41.3,
        machine={"system": "Linux", "processor": "x86_64", "num_cpus": 2, "python": "3.11.7"},
        simulated=("WAN delay between edge and regions (us-eu-jp)",),
        home_regions=("iad",),
    )


def report(num_cold: int = 3, num_warm: int = 20, seed: int = 7) -> Report:
    """A whole report of three regions, the first of them the home."""
    rng = random.Random(seed)
    net_ms = {"iad": 0.6, "fra": 82.0, "nrt": 158.0}
    samples = [
        sample(region, start, rng, net_ms[region])
        for region in net_ms
        for start in Start
        for _ in range(num_warm if start is Start.WARM else num_cold)
        if (region, start) != ("iad", Start.ORIGIN)
    ]
    rates = {"remote": 19e6, "region": 1.4e9, "host": 6e9}
    tiers = {region: Tiers(rates, WEIGHT_BYTES, 0.08) for region in net_ms}
    return document(settings(num_cold, num_warm), tiers, samples)


def split() -> Split:
    """The counterfactual's two sides: cold starts and warm requests, the far ones half a second later."""
    rng = random.Random(5)

    def side(name: str, later_ms: float) -> Side:
        cold = [
            replace(s, ttft_ms=(s.ttft_ms or 0.0) + later_ms)
            for s in (sample("iad", Start.REGION, rng) for _ in range(5))
        ]
        return Side(name, (*cold, *(sample("iad", Start.WARM, rng) for _ in range(20))))

    return Split(90.0, 125e6, 1.4e9, WEIGHT_BYTES, side("together", 0.0), side("apart", 500.0))


def full_report(num_cold: int = 3, num_warm: int = 20) -> Report:
    """A report with all further arms."""
    rng, net_ms = random.Random(11), {"iad": 0.6, "fra": 82.0, "nrt": 158.0}

    def asked(start: Start, num: int, net: float = 0.6) -> tuple[Sample, ...]:
        return tuple(sample("iad", start, rng, net) for _ in range(num))

    started = asked(Start.REGION, 1)[0]
    more = Found(
        places=tuple(
            Place(client, region, net_ms[client], asked(Start.WARM, 5, net_ms[client] + net_ms[region]))
            for client in net_ms
            for region in net_ms
        ),
        herd=Herd("fra", tuple(replace(s, start_ms=started.start_ms) for s in asked(Start.REGION, 16, 82.0))),
        gaps=(
            *(Gap("iad", gap_s, asked(Start.WARM, 2)) for gap_s in (0.2, 1.0, 3.0)),
            Gap("iad", 400.0, asked(Start.REGION, 2)),
        ),
        loads=(
            Load("acme/tinychat", "iad", WEIGHT_BYTES, asked(Start.REGION, 5)),
            Load("acme/minilm", "iad", 90_000_000, asked(Start.REGION, 5)),
        ),
        ceilings=(
            Ceiling("region", "iad", WEIGHT_BYTES, 1.4e9),
            Ceiling("region", "fra", WEIGHT_BYTES, 1.1e9),
            Ceiling("remote", "fra", WEIGHT_BYTES, 2.8e7),
        ),
        split=split(),
    )
    return replace(report(num_cold, num_warm), more=more, terms=load_terms())
