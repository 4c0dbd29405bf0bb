"""One process of `bench edge`: our edge as `deploy.roles.process` runs it, or the region behind it.

`python -m bench.proxy.child edge|crew|region SETTINGS`, SETTINGS a JSON object; a line on stdout says that it listens.
"""

import asyncio
import gc
import hashlib
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvloop

from deploy.roles.crew import Crew
from deploy.roles.life import GC_THRESHOLDS
from edge.crew.place import bind
from edge.listeners import MAIN
from edge.run import run
from edge.settings import EdgeSettings
from regions.map.policy import KeyGrant, PolicyRow
from regions.map.region import ModelRow, RegionRow, RolloutState, Tier
from regions.rows import encode, public_bytes, signing_key
from wire.address import split_address
from wire.http.limits import Limits
from wire.listener.exchange import Exchange
from wire.serve import Server
from wire.trace.export import Tracing

REGION, MODEL, USER_KEY, HOP_TOKEN = "bench", "bench/small", "nf-bench-key", "b" * 64
RATE_PER_S = 1e6  # the key's rate is looked at for every request, and never met
LIMITS = Limits(max_per_address=1 << 16)
SEED = hashlib.sha256(b"nearfield bench edge").digest()


def edge_settings(options: dict[str, Any]) -> EdgeSettings:
    """The edge of `options`: port, gateway, state, cert, key, and whether it speaks no TLS."""
    return EdgeSettings(
        name="bench",
        host="127.0.0.1",
        port=options["port"],
        pins={},
        s3=None,
        admin=None,
        cert=Path(options["cert"]),
        key=Path(options["key"]),
        plain=options["plain"],
        regions={REGION: options["gateway"]},
        public_keys={REGION: public_bytes(signing_key(SEED))},
        home=REGION,
        s3_upstream="127.0.0.1:9",
        hop_token=HOP_TOKEN,
        state=Path(options["state"]),
        rate_per_s=RATE_PER_S,
        burst=RATE_PER_S,
        tracing=_tracing(options.get("trace")),
    )


def _tracing(trace: tuple[str, float, float] | None) -> Tracing | None:
    if trace is None:
        return None
    collector, share, per_s = trace
    return Tracing(*split_address(collector), share=share, per_s=per_s)


async def _edge(options: dict[str, Any]) -> None:
    await run(edge_settings(options), _ready, asyncio.Event())


def _crew(options: dict[str, Any]) -> None:
    """The edge as `size` processes, as `deploy.roles.process` has it; returns in each and in the one that forks."""
    sockets = [{MAIN: sock} for sock in bind("127.0.0.1", options["port"], options["size"])]
    mine = Crew(sockets, drain_s=0.0).work(lambda: print(json.dumps({"port": options["port"]}), flush=True))
    if mine is None:
        return
    place, say = mine

    def ready(_port: int) -> None:
        _settle()
        os.write(say, b"+")

    uvloop.run(run(replace(edge_settings(options), place=place), ready, asyncio.Event()))


async def _region(options: dict[str, Any]) -> None:
    server = await Server.start(_answer, "127.0.0.1", options["port"], limits=LIMITS)
    _ready(server.port)
    await asyncio.Event().wait()


async def _answer(exchange: Exchange) -> None:
    """Rows for as long as they are read, or the stream that the request's own model name asks for."""
    if exchange.head.path == "/rows":
        await _rows(exchange)
    else:
        asked = json.loads(await exchange.read_body(1 << 20))
        await _stream(exchange, asked["max_tokens"], asked.get("temperature", 0.0))


async def _rows(exchange: Exchange) -> None:
    key, digest = signing_key(SEED), hashlib.sha256(USER_KEY.encode()).hexdigest()
    row = ModelRow("a" * 64, RolloutState.LIVE, Tier.RESIDENT, "generate", 1000, 512, slots=1 << 20)
    policy = PolicyRow(epoch=1, seq=1, keys={digest: KeyGrant("bench", frozenset({"infer"}))})
    await exchange.start(200, (), first=encode(policy, key) + b"\n")
    epoch, seq = time.time_ns() // 1_000_000, 0
    while True:
        seq += 1
        await exchange.write(
            encode(RegionRow(REGION, epoch=epoch, seq=seq, models={MODEL: row}), key) + b"\n"
        )
        await asyncio.sleep(1)


async def _stream(exchange: Exchange, num_events: int, gap_s: float) -> None:
    """Events that say their number and when they were sent, on the clock that all processes of a host share."""
    await exchange.start(200, (("content-type", "text/event-stream"),))
    due = time.monotonic()
    for number in range(num_events):
        line = f'data: {{"n": {number}, "at": {time.monotonic():.6f}, "pad": "{"x" * 180}"}}\n\n'
        await exchange.write(line.encode())
        due += gap_s
        await asyncio.sleep(max(0.0, due - time.monotonic()))
    await exchange.finish(b"data: [DONE]\n\n")


def _settle() -> None:
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def _ready(port: int) -> None:
    _settle()
    print(json.dumps({"port": port}), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "crew":
        _crew(json.loads(sys.argv[2]))
    else:
        uvloop.run({"edge": _edge, "region": _region}[sys.argv[1]](json.loads(sys.argv[2])))
