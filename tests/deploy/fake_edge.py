"""An edge that keeps the contract's routes and lies about nothing but the work: for tests of the report's client."""

import asyncio
import json
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.wire.certs import make_certificate
from wire.listener.exchange import Exchange
from wire.refused.refusal import Refusal
from wire.secured.tls import server_context
from wire.serve import Server
from wire.timing import Phases

MODEL = "acme/tinychat"
WEIGHT_BYTES = 6_888_000
WAKE_S = {"origin": 0.06, "region": 0.03, "host": 0.02}
SOURCES = {
    "origin": {"remote": WEIGHT_BYTES, "region": WEIGHT_BYTES, "host": 0},
    "region": {"remote": 0, "region": WEIGHT_BYTES, "host": 0},
    "host": {"remote": 0, "region": 0, "host": WEIGHT_BYTES},
}


@dataclass
class FakeRegion:
    """One region's model: `tier` where it is, `served` since it lives, and what went wrong on purpose."""

    name: str
    is_home: bool
    tier: str = "region"
    served: int = 0
    refuse_every: int = 0
    num_asked: int = 0
    at_once: int = 0
    most_at_once: int = 0
    cools: list[str] = field(default_factory=list)

    def start(self) -> str:
        if self.tier != "resident":
            return self.tier
        return "warm" if self.served else "resident"

    def cool(self, to: str) -> None:
        self.cools.append(to)
        self.tier = "region" if to == "origin" and self.is_home else to
        self.served = 0


ASKED = {"generate": "/v1/chat/completions", "embed": "/v1/embeddings", "rerank": "/v1/rerank"}


class FakeEdge:
    """All listeners: the edge's own and one pinned to each region."""

    def __init__(self, folder: Path, regions: tuple[str, ...], kind: str = "generate") -> None:
        self.regions = {name: FakeRegion(name, is_home=name == regions[0]) for name in regions}
        self.kind = kind
        self.prewarm_s = 0.01
        self.requests: dict[str, int] = defaultdict(int)
        self.cert, self.key, self.ca = make_certificate(folder)
        self._servers: list[Server] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.base_url = ""
        self.pins: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        self.base_url = await self._listen(self._admin)
        for name, region in self.regions.items():
            self.pins[name] = await self._listen(
                lambda exchange, region=region: self._infer(exchange, region)
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers:
            await server.close()

    async def _listen(self, handler) -> str:
        server = await Server.start(handler, "127.0.0.1", 0, tls=server_context(self.cert, self.key))
        self._servers.append(server)
        return f"https://localhost:{server.port}/v1"

    async def _admin(self, exchange: Exchange) -> None:
        if exchange.head.get("authorization") != "Bearer admin":
            raise Refusal(401, "invalid_api_key", "This needs a key with the scope admin.")
        if exchange.head.path == "/nearfield/status":
            await exchange.respond(200, (), json.dumps(self._status()).encode())
            return
        _, _, _, name, verb = exchange.head.path.split("/")
        order = json.loads(await exchange.read_body(4096))
        assert order["model"] == MODEL
        if verb == "cool":
            self.regions[name].cool(order["to"])
        else:
            self._tasks.append(asyncio.create_task(self._prewarm(self.regions[name])))
        await exchange.respond(200, (), b"{}")

    async def _prewarm(self, region: FakeRegion) -> None:
        await asyncio.sleep(self.prewarm_s)
        region.tier = "resident"

    def _status(self) -> dict[str, object]:
        rates = {
            "store_bytes_per_s": 1.4e9,
            "host_bytes_per_s": 6e9,
            "origin_bytes_per_s": 2e7,
            "attach_s": 0.05,
        }
        rows = {
            name: {
                "body": {
                    "models": {MODEL: {"tier": r.tier, "kind": self.kind, "bytes": WEIGHT_BYTES}},
                    **rates,
                }
            }
            for name, r in self.regions.items()
        }
        return {"edge": "test", "simulated_wan": "us-eu-jp", "regions": rows}

    async def _infer(self, exchange: Exchange, region: FakeRegion) -> None:
        edge = Phases("edge", started=exchange.started)
        if exchange.head.path == "/healthz":
            await exchange.respond(200, (), b"ok")
            return
        body = json.loads(await exchange.read_body(65536))
        assert body["model"] == MODEL
        assert exchange.head.path == ASKED[self.kind]
        edge.mark("read")
        region.num_asked += 1
        if region.refuse_every and region.num_asked % region.refuse_every == 0:
            raise Refusal(503, "model_not_ready", "It did not start.", "server_error")
        edge.mark("route")
        gateway, start = Phases("gateway"), region.start()
        gateway.mark("pick")
        answer = self._stream if self.kind == "generate" else self._whole
        region.at_once += 1
        region.most_at_once = max(region.most_at_once, region.at_once)
        await answer(exchange, region, edge, gateway, start)
        region.at_once -= 1
        region.served += 1

    async def _wake(self, region: FakeRegion, gateway: Phases, start: str) -> dict[str, float]:
        if start not in WAKE_S:
            return {}
        began = time.perf_counter()
        await asyncio.sleep(WAKE_S[start])
        region.tier = "resident"
        gateway.mark("wake")
        spent = (time.perf_counter() - began) * 1000
        return {"fork": spent * 0.3, "fetch": spent * 0.4, "attach": spent * 0.25}

    async def _stream(
        self, exchange: Exchange, region: FakeRegion, edge: Phases, gateway: Phases, start: str
    ) -> None:
        headers = (
            ("content-type", "text/event-stream"),
            ("x-nearfield-start", start),
            ("x-nearfield-revision", "ab" * 32),
        )
        await exchange.start(200, headers)
        if start in WAKE_S:
            await exchange.write(b': nearfield {"phase": "fetch", "percent": 50}\n\n')
        parts = await self._wake(region, gateway, start)
        node = Phases("node")
        node.mark("template")
        await asyncio.sleep(0.004)
        node.mark("prefill")
        gateway.mark("first_byte")
        edge.mark("first_byte")
        for word in ("Near", "field", "."):
            event = {"choices": [{"index": 0, "delta": {"content": word}}]}
            await exchange.write(f"data: {json.dumps(event)}\n\n".encode())
            await asyncio.sleep(0.002)
        usage = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}
        await exchange.write(f"data: {json.dumps(usage)}\n\ndata: [DONE]\n\n".encode())
        node.mark("decode")
        extra = {
            "start": "resident" if parts else start,
            "bytes": SOURCES.get(start, {}),
            "start_phases": parts,
        }
        receipt = node.comment(extra)
        gateway.mark("stream")
        edge.mark("stream")
        remote = SOURCES.get(start, {}).get("remote", 0)
        receipt += gateway.comment({"start": start, "remote_bytes": remote}) + edge.comment({})
        await exchange.write(receipt)
        await exchange.finish()

    async def _whole(
        self, exchange: Exchange, region: FakeRegion, edge: Phases, gateway: Phases, start: str
    ) -> None:
        await self._wake(region, gateway, start)
        node = Phases("node")
        await asyncio.sleep(0.004)
        node.mark("prefill")
        gateway.mark("stream")
        edge.mark("stream")
        timing = f"{node.header()}, {gateway.header()}, {edge.header()}"
        body = json.dumps({"data": [{"embedding": [0.0]}], "usage": {"prompt_tokens": 7}}).encode()
        await exchange.respond(200, (("server-timing", timing), ("x-nearfield-start", start)), body)
