"""A stand-in for a region's node: it speaks the node's private API, and its tokens come at a scripted pace.

No model is in it. The prompt of a request says what to answer: `tokens=40 pace_ms=20`. `/lab/seen` tells when each
request began, ended or was cut off, on the clock that all processes of a machine share (CLOCK_MONOTONIC).
`python -m tests.lab.standin HOST:PORT HOP_TOKEN LOAD_S`
"""

import asyncio
import json
import re
import sys
import time

import uvloop

from regions.map.headers import REQUEST_ID, RESUME, REVISION
from tests.regions.pretend_node import FACTS
from weights_cache.model.revision import Revision
from wire.address import split_address
from wire.bearer import require_token
from wire.refused.refusal import Refusal
from wire.serve import Server

SSE = (("content-type", "text/event-stream"),)
JSON = (("content-type", "application/json"),)
_WISH = re.compile(r"(tokens|pace_ms)=(\d+)")


def event(value):
    return b"data: " + json.dumps(value).encode() + b"\n\n"


class StandIn:
    def __init__(self, token, load_s):
        self._token, self._load_s = token, load_s
        self._resident, self._cached = {}, set()
        self._running = 0
        self.loads, self.seen = [], {}

    async def handle(self, exchange):
        head = exchange.head
        if head.path != "/healthz":
            require_token(head, self._token)
        routes = {
            "/healthz": self._health,
            "/status": self._status,
            "/inspect": self._inspect,
            "/load": self._load,
            "/unload": self._unload,
        }
        await routes.get(head.path, self._lab if head.path.startswith("/lab/") else self._infer)(exchange)

    async def _health(self, exchange):
        await exchange.respond(200, (), b"ok\n")

    async def _status(self, exchange):
        figures = {"running": self._running, "waiting": 0, "slots": 256, "idle_s": 0.0}
        figures |= {"prefill_ms_per_token": 0.01, "step_ms": 1.0, "state": "resident"}
        workers = [{"model": m, "revision": r, **figures} for r, m in self._resident.items()]
        value = {
            "memory": {"budget_bytes": 1 << 30, "used_bytes": 0},
            "workers": workers,
            "cache": [{"revision": each, "bytes": 16} for each in self._cached],
            "store_bytes_per_s": 1e9,
            "host_bytes_per_s": 4e9,
            "attach_s": self._load_s,
        }
        await exchange.respond(200, JSON, json.dumps(value).encode())

    async def _inspect(self, exchange):
        await exchange.read_body(1 << 20)
        await exchange.respond(200, JSON, json.dumps({"facts": FACTS.as_value(), "left_out": []}).encode())

    async def _load(self, exchange):
        order = json.loads(await exchange.read_body(1 << 20))
        if isinstance(order["revision"], str):
            raise Refusal(409, "unknown_revision", "Send it whole.")
        revision = Revision.from_value(order["revision"])
        self.loads.append({"model": revision.model, "reason": order["reason"], "at": time.monotonic()})
        await exchange.start(200, (("content-type", "application/x-ndjson"),))
        await exchange.write(b'{"phase":"fetch","percent":10}\n')
        await asyncio.sleep(self._load_s)
        self._resident[revision.id] = revision.model
        ready = {"phase": "ready", "start": "region", "phases": {}, "bytes": {"region": 16}, "total_ms": 1.0}
        await exchange.finish(json.dumps(ready).encode() + b"\n")

    async def _unload(self, exchange):
        order = json.loads(await exchange.read_body(1 << 20))
        self._resident.pop(order["revision"], None)
        self._cached.discard(order["revision"])
        if order["to"] == "host":
            self._cached.add(order["revision"])
        await exchange.respond(200, JSON, b'{"freed_bytes":16}')

    async def _lab(self, exchange):
        await exchange.respond(200, JSON, json.dumps({"loads": self.loads, "seen": self.seen}).encode())

    async def _infer(self, exchange):
        question = json.loads(await exchange.read_body(1 << 20))
        if exchange.head.get(REVISION) not in self._resident:
            raise Refusal(409, "not_resident", "That revision is not resident.")
        mark = self.seen.setdefault(exchange.head.get(REQUEST_ID), {})
        mark |= {"began": time.monotonic(), "user": question.get("user")}
        self._running += 1
        try:
            await self._answer(exchange, question)
            mark["ended"] = time.monotonic()
        except BaseException:
            mark["cut"] = time.monotonic()
            raise
        finally:
            self._running -= 1

    async def _answer(self, exchange, question):
        wish = {key: int(value) for key, value in _WISH.findall(json.dumps(question))}
        num_tokens, pace_s = wish.get("tokens", 1), wish.get("pace_ms", 0) / 1000
        if not question.get("stream"):
            await asyncio.sleep(num_tokens * pace_s)
            text = "".join(f"t{n} " for n in range(num_tokens))
            value = {"choices": [{"text": text}], "usage": {"completion_tokens": num_tokens}}
            await exchange.respond(200, (*JSON, ("x-nearfield-start", "warm")), json.dumps(value).encode())
            return
        watched = exchange.head.get(RESUME)
        start = len(question["nearfield_resume"]["tokens"]) if watched == "go" else 0
        await exchange.start(200, SSE)
        if watched:
            await exchange.write(b': nf-head {"id": "lab"}\n\n')
        for n in range(start, num_tokens):
            line = b": nf %d 1 %d\n" % (n, n) if watched else b""
            await exchange.write(line + event({"choices": [{"text": f"t{n} "}], "at": time.monotonic()}))
            await asyncio.sleep(pace_s)
        await exchange.finish(b"data: [DONE]\n\n")


async def main():
    address, token, load_s = sys.argv[1:]
    await Server.start(StandIn(token, float(load_s)).handle, *split_address(address))
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
