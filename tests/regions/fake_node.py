"""A scripted node on wire/serve.py, and a region around it: the real gateway, watch, wakes and publisher."""

import asyncio
import contextlib
import json

from regions.deployments import Deployment, Deployments
from regions.gateway.front import Gateway
from regions.gateway.hold import Seats
from regions.gateway.publish import Publisher
from regions.gateway.wake import Wakes
from regions.map.headers import REVISION
from regions.map.region import RolloutState
from regions.nodes.client import Node
from regions.nodes.watch import NodeWatch
from weights_cache.model.revision import Extent, FileEntry, ModelFacts, Revision, TensorEntry
from wire.dial import Pool
from wire.refused.refusal import Refusal
from wire.serve import Server

TOKEN = "t" * 64
SSE = (("content-type", "text/event-stream"),)
CHAT = "/v1/chat/completions"


def revision(model="acme/m", kind="generate", max_len=64, salt="1"):
    digest = salt[0] * 64
    return Revision(
        model=model,
        files=(FileEntry("model.safetensors", 100, digest, "e"),),
        tensors=(TensorEntry("w", "F32", (4,), 0, 84, 16),),
        extents=(Extent(0, 84, 16, "0" * 16, digest, 0, (0,)),),
        facts=ModelFacts(
            kind=kind,
            architecture="LlamaForCausalLM",
            model_type="llama",
            dtype="F32",
            num_params=4,
            num_layers=1,
            max_len=max_len,
            vocab_size=10,
            kv_bytes_per_token=8,
            weight_bytes=16,
            eos_token_ids=(1,),
            has_chat_template=True,
            pooling="mean" if kind == "embed" else None,
            normalize=kind == "embed",
            max_seq_len=None,
        ),
    )


def event(value):
    return b"data: " + json.dumps(value).encode() + b"\n\n"


class FakeNode:
    """`resident` and `cached` hold revision ids; the rest is the script and what was seen."""

    def __init__(self):
        self.resident, self.cached = set(), set()
        self.slots, self.answer = 4, self.usual
        self.landing = None  # {"percent","eta_s"} while weights of its workers are on their way
        self.load_script = self.usual_load
        self.loads, self.requests, self.unloads = [], [], []
        self.num_open = self.num_cut = 0
        self.says = asyncio.Event()  # cleared: no word of how it is
        self.says.set()
        self.go = asyncio.Event()
        self.go.set()

    async def start(self):
        self.server = await Server.start(self.handle, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self.server.port}"
        return self

    async def handle(self, exchange):
        assert exchange.head.get("authorization") == f"Bearer {TOKEN}"
        path = exchange.head.path
        if path == "/status":
            await self.says.wait()
            return await exchange.respond(200, (), json.dumps(self.status()).encode())
        body = await exchange.read_body(1 << 20)
        if path == "/load":
            self.loads.append(json.loads(body))
            return await self.load_script(exchange)
        if path == "/unload":
            return await self.unload(exchange, json.loads(body))
        return await self.infer(exchange, body)

    async def infer(self, exchange, body):
        self.requests.append((exchange.head, body))
        self.num_open += 1
        try:
            if exchange.head.get(REVISION) not in self.resident:
                raise Refusal(409, "not_resident", "That revision is not resident.")
            await self.answer(exchange, json.loads(body))
        except asyncio.CancelledError:
            self.num_cut += 1
            raise
        finally:
            self.num_open -= 1

    async def usual(self, exchange, question):
        if not question.get("stream"):
            headers = (("content-type", "application/json"), ("server-timing", "node;dur=1.0"))
            headers += (("x-nearfield-start", "warm"), ("server", "uvicorn"))
            await exchange.respond(200, headers, b'{"choices":[1]}')
            return
        await exchange.start(200, SSE)
        for n in range(3):
            await exchange.write(event({"n": n}))
        await exchange.write(b'data: [DONE]\n\n: nearfield {"hop":"node"}\n\n')
        await exchange.finish()

    async def usual_load(self, exchange):
        rev = self.loads[-1]["revision"]
        rev = rev if isinstance(rev, str) else Revision.from_value(rev).id
        await exchange.start(200, (("content-type", "application/x-ndjson"),))
        await self.line(exchange, phase="fetch", percent=10, eta_s=1.2)
        await self.go.wait()
        self.resident.add(rev)
        figures = {"phases": {"fetch": 3.0}, "bytes": {"region": 16, "host": 0}, "total_ms": 5.0}
        await self.line(exchange, phase="ready", start="region", **figures)
        await exchange.finish()

    async def line(self, exchange, **value):
        await exchange.write(json.dumps(value).encode() + b"\n")

    async def unload(self, exchange, order):
        self.unloads.append(order)
        self.resident.discard(order["revision"])
        self.cached.discard(order["revision"])
        if order["to"] == "host":
            self.cached.add(order["revision"])
        await exchange.respond(200, (), b'{"freed_bytes":16}')

    def status(self):
        return {
            "region": "iad",
            "memory": {"budget_bytes": 1000, "used_bytes": 0},
            "workers": [self.worker(each) for each in sorted(self.resident)],
            "cache": [{"revision": each, "bytes": 16} for each in sorted(self.cached)],
            "store_bytes_per_s": 1e9,
            "host_bytes_per_s": 4e9,
            "attach_s": 0.1,
        }

    def worker(self, rev):
        figures = {"running": 1, "waiting": 2, "slots": self.slots, "idle_s": 0.5}
        figures |= {"prefill_ms_per_token": 0.5, "step_ms": 4.0}
        return {"model": "acme/m", "revision": rev, "state": "resident", "landing": self.landing, **figures}


class FakeBlobs:
    """Pulls and drops without bytes; `gate` holds a pull back."""

    def __init__(self):
        self.num_ensured, self.fails = 0, None
        self.gate = asyncio.Event()
        self.gate.set()

    async def ensure(self, deployment, rev):
        self.num_ensured += 1
        await self.gate.wait()
        if self.fails:
            raise self.fails
        deployment.in_region = True
        return 16

    async def drop(self, deployment, rev):
        deployment.in_region = False
        return 16


class Region:
    """One region on free ports, with `num_nodes` fake nodes and one live model, `acme/m`."""

    def __init__(self, nodes, seats=None, peers=None):
        self.fakes = nodes
        self.deployments = Deployments("iad")
        self.blobs = FakeBlobs()
        self.nodes = {each.address: Node(each.address, TOKEN) for each in nodes}
        self.watch = NodeWatch(self.deployments, self.nodes)
        self.wakes = Wakes(self.deployments, self.nodes, self.watch)
        self.publisher = Publisher(self.deployments, b"\0" * 32, 7, self.wakes)
        self.gateway = Gateway(
            self.deployments,
            self.nodes,
            self.watch,
            self.wakes,
            self.publisher,
            TOKEN,
            seats or Seats(),
            peers=peers,
        )
        self.revision = revision()
        self.deployment = self.deploy(self.revision)

    def deploy(self, rev, **changes):
        usual = {"live": rev, "state": RolloutState.LIVE, "in_region": True, "idle_timeout_s": 9.0}
        deployment = Deployment(rev.model, self.blobs, **{**usual, **changes})
        self.deployments.models[rev.model] = deployment
        return deployment

    async def start(self):
        self.server = await Server.start(self.gateway.serve, "127.0.0.1", 0)
        self.pool = Pool("127.0.0.1", self.server.port)
        await self.watch.refresh()
        self.publisher.publish()
        self.tasks = [asyncio.create_task(self.publisher.run())]
        return self

    async def stop(self):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.pool.close()
        await self.gateway.close()
        await self.wakes.close()
        await self.server.close()
        for each in self.nodes.values():
            await each.close()
        for each in self.fakes:
            await each.server.close()

    async def ask(self, path=CHAT, *, headers=(), method="POST", token=TOKEN, body=None, **question):
        if body is None:
            body = json.dumps({"model": "acme/m", **question}).encode()
        given = (("authorization", f"Bearer {token}"), *headers)
        return await self.pool.request(method, path, given, None if method == "GET" else body)

    async def answer(self, path=CHAT, **given):
        answer = await self.ask(path, **given)
        return answer.head, await answer.read()

    async def resident(self):
        """Makes the model resident before the test begins."""
        self.fakes[0].resident.add(self.revision.id)
        await self.watch.refresh()


@contextlib.asynccontextmanager
async def region(num_nodes=1, seats=None, peers=None):
    fakes = [await FakeNode().start() for _ in range(num_nodes)]
    world = await Region(fakes, seats, peers).start()
    try:
        yield world
    finally:
        await world.stop()


async def until(condition, timeout_s=60.0):
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - what a test waits for sends no event
            await asyncio.sleep(0.005)
