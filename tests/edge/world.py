"""Scripted regions and one real edge before them, in one process."""

import asyncio
import hashlib
import json
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from edge.run import run
from edge.settings import EdgeSettings
from regions.gateway.pops import Pops
from regions.map.headers import FOR
from regions.map.policy import KeyGrant, PolicyRow
from regions.map.region import ModelRow, RegionRow, RolloutState, Tier
from regions.rows import encode, public_bytes, signing_key
from wire.dial import DialError, Pool
from wire.flow import in_task
from wire.secured.tls import client_context
from wire.serve import Server

HOP = "h" * 64
USER, ADMIN = "nf-user-key", "nf-admin-key"
OTHER, ENDED = "nf-other-tenants-key", "nf-ended-key"
MODEL = "acme/chat"
POLICY_KEYS = {
    hashlib.sha256(USER.encode()).hexdigest(): KeyGrant("acme", frozenset({"infer"})),
    hashlib.sha256(ADMIN.encode()).hexdigest(): KeyGrant("ops", frozenset({"infer", "admin"})),
    hashlib.sha256(OTHER.encode()).hexdigest(): KeyGrant("other", frozenset({"infer"}), ("other/*",)),
    hashlib.sha256(ENDED.encode()).hexdigest(): KeyGrant("acme", frozenset({"infer", "admin"}), expires_s=1),
}
BODY = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}).encode()
STREAM_BODY = json.dumps({"model": MODEL, "prompt": "Hi", "stream": True}).encode()


def served(**changes) -> ModelRow:
    row = ModelRow(
        revision="a" * 64,
        state=RolloutState.LIVE,
        tier=Tier.RESIDENT,
        kind="generate",
        bytes=1000,
        max_len=512,
        slots=4,
    )
    return replace(row, **changes)


async def answers(exchange, region):
    """The plain script: one JSON answer that says who made it."""
    body = await exchange.read_body(2**21)
    region.requests.append((exchange.head, body))
    headers = (("content-type", "application/json"), ("x-nearfield-start", "warm"))
    timing = (("server-timing", "node;dur=1.000, gateway;dur=2.000"), ("x-nearfield-region", region.name))
    await exchange.respond(200, (*headers, *timing), json.dumps({"from": region.name}).encode())


def refuses(status, code):
    """A script: an OpenAI error."""

    async def script(exchange, region):
        region.requests.append((exchange.head, await exchange.read_body(2**21)))
        error = {"error": {"message": "m", "type": "server_error", "param": None, "code": code}}
        headers = (("content-type", "application/json"), ("retry-after", "7"))
        await exchange.respond(status, headers, json.dumps(error).encode())

    return script


def streams(*parts, then="finish"):
    """A script: an event stream of `parts` (bytes, or seconds of silence), then `finish`, `cut` or `hang`."""

    async def script(exchange, region):
        region.requests.append((exchange.head, await exchange.read_body(2**21)))
        await exchange.start(200, (("content-type", "text/event-stream"),))
        for part in parts:
            if isinstance(part, bytes):
                await exchange.write(part)
            await asyncio.sleep(part if isinstance(part, float) else 0.005)
        if then == "cut":
            exchange.abort()
        elif then == "hang":
            await hangs(exchange, region)
        else:
            await exchange.finish()

    return script


async def cuts(exchange, region):
    """A script: the connection breaks before a byte of the answer."""
    region.requests.append((exchange.head, await exchange.read_body(2**21)))
    exchange.abort()


async def hangs(exchange, region):
    """A script: silence until the edge gives up; then `region.cancelled` is set."""
    region.requests.append((exchange.head, b""))
    try:
        await asyncio.sleep(100)
    finally:
        region.cancelled.set()


@dataclass
class FakeRegion:
    """A region's private port: rows, health, orders, and a scripted answer to inference."""

    name: str
    home: bool = False
    script: object = answers
    models: dict = field(default_factory=lambda: {MODEL: served()})
    policy: dict = field(default_factory=dict)  # what it signs beside keys
    tls: object = None
    host: str = "127.0.0.1"  # as the edge is told it

    def __post_init__(self):
        self.key = signing_key(hashlib.sha256(self.name.encode()).digest())
        self.requests, self.orders = [], []
        self.pops = Pops()
        self.asked, self.cancelled = asyncio.Event(), asyncio.Event()
        self.seq, self.port, self.server = 0, 0, None
        self.policy_seq, self.keys = 1, POLICY_KEYS
        self.passes_on = False  # it reaches no other region either
        self.strange = []  # lines of the stream that are no rows of ours
        self.frozen = asyncio.Event()  # set: connections are taken and nothing is said
        self._said = asyncio.Event()

    async def start(self):
        self.server = await Server.start(self._serve, "127.0.0.1", self.port, tls=self.tls)
        self.port = self.server.port

    async def kill(self):
        await self.server.close()

    def say(self, models=None):
        """A new row for every stream."""
        self.models = self.models if models is None else models
        said, self._said = self._said, asyncio.Event()
        said.set()

    def line(self):
        self.seq += 1
        return encode(RegionRow(self.name, epoch=1, seq=self.seq, models=self.models), self.key)

    def policy_line(self, seq=None, keys=None):
        keys = self.keys if keys is None else keys
        return encode(PolicyRow(epoch=1, seq=seq or self.policy_seq, keys=keys, **self.policy), self.key)

    def say_policy(self, **policy):
        """`keys` as they are now, and what else is given, in a newer policy row for every stream."""
        self.policy = policy or self.policy
        self.policy_seq += 1
        self.say()

    async def _serve(self, exchange):
        path = exchange.head.path
        if self.frozen.is_set():
            await asyncio.sleep(100)
        if path == "/healthz":
            await exchange.respond(200, (), b"ok\n")
        elif exchange.head.get("authorization") != f"Bearer {HOP}":
            await exchange.respond(401, ())
        elif path == "/rows":
            await self._rows(exchange)
        elif path == "/pops":
            await self.pops.serve(exchange)
        elif path.startswith("/control/"):
            self.orders.append((path, json.loads(await exchange.read_body(4096))))
            await exchange.respond(200, (("content-type", "application/json"),), b'{"freed_bytes": 1}')
        elif exchange.head.get(FOR) not in {None, self.name} and not self.passes_on:
            error = {
                "error": {"message": "m", "type": "server_error", "param": None, "code": "region_unavailable"}
            }
            await exchange.respond(503, (("content-type", "application/json"),), json.dumps(error).encode())
        else:
            self.asked.set()
            await self.script(exchange, self)

    async def _rows(self, exchange):
        await in_task()
        await exchange.start(200, ())
        told = 0
        while True:
            said = self._said
            if self.home and told < self.policy_seq:
                told = self.policy_seq
                await exchange.write(self.policy_line() + b"\n")
            while self.strange:
                await exchange.write(self.strange.pop(0) + b"\n")
            await exchange.write(self.line() + b"\n")
            try:
                async with asyncio.timeout(1):
                    await said.wait()
            except TimeoutError:
                pass


class World:
    """`regions` by name; `ask` speaks to the edge as a user would."""

    def __init__(
        self,
        state,
        certificate,
        *,
        names=("iad", "fra"),
        s3_upstream="127.0.0.1:9",
        wait=True,
        region_tls=None,
        hosts=MappingProxyType({}),
        **settings,
    ):
        self.regions = {
            name: FakeRegion(name, name == "iad", tls=region_tls, host=hosts.get(name, "127.0.0.1"))
            for name in names
        }
        self._cert, self._key, ca = certificate
        self.tls = self._tls = client_context(ca)
        self._state, self._s3_upstream, self._wait, self._changes = state, s3_upstream, wait, settings
        self._stop = asyncio.Event()
        self._task = None
        self.pools = {}
        self._ports = {}  # that the next edge is to have again

    def keep(self, **ports):
        self._ports = ports

    async def start(self):
        for region in self.regions.values():
            await region.start()
        await self.start_edge()

    async def start_edge(self):
        for _ in range(5):
            try:
                return await self._start_edge()
            except OSError:  # another test run took a free port first
                await asyncio.sleep(0.05)
        raise AssertionError("no free ports")

    async def _start_edge(self):
        free = {name: free_port() for name in ("s3", "admin", *self.regions)} | self._ports
        settings = EdgeSettings(
            name="test",
            host="127.0.0.1",
            port=0,
            pins={name: ("127.0.0.1", free[name]) for name in self.regions},
            s3=("127.0.0.1", free["s3"]),
            admin=("127.0.0.1", free["admin"]),
            cert=self._cert,
            key=self._key,
            regions={name: f"{region.host}:{region.port}" for name, region in self.regions.items()},
            public_keys={name: public_bytes(region.key) for name, region in self.regions.items()},
            home="iad",
            s3_upstream=self._s3_upstream,
            hop_token=HOP,
            state=self._state,
            drain_s=1.0,
        )
        ready = asyncio.get_running_loop().create_future()
        self._stop = asyncio.Event()
        self._task = asyncio.ensure_future(
            run(replace(settings, **self._changes), ready.set_result, self._stop)
        )
        await asyncio.wait([ready, self._task], return_when=asyncio.FIRST_COMPLETED)
        if self._task.done():
            await self._task
        ports = {"": ready.result(), **free}
        self.pools = {name: Pool("127.0.0.1", port, tls=self._tls) for name, port in ports.items()}
        if self._wait:
            await self.until(
                lambda status: all(r["body"] and r["rtt_ms"] for r in status["regions"].values())
            )

    async def stop_edge(self):
        for pool in self.pools.values():
            await pool.close()
        self._stop.set()
        if self._task is not None:
            await asyncio.wait_for(self._task, 60)

    async def stop(self):
        await self.stop_edge()
        for region in self.regions.values():
            await region.kill()

    async def raw(self, method, path, body=None, *, key=USER, at=None, headers=()):
        at = ("admin" if path.startswith("/nearfield/") else "") if at is None else at
        auth = (("authorization", f"Bearer {key}"),) if key else ()
        return await self.pools[at].request(method, path, (*auth, *headers), body, connect_s=30.0)

    async def ask(self, path="/v1/chat/completions", body=BODY, **options):
        """POST; (status, headers, body)."""
        return await whole(await self.raw("POST", path, body, **options))

    async def get(self, path, **options):
        return await whole(await self.raw("GET", path, **options))

    async def status(self):
        _, _, body = await self.get("/nearfield/status", key=ADMIN)
        return json.loads(body)

    async def until(self, condition, deadline_s=60.0):
        """Wait until the edge's status meets `condition`."""
        async with asyncio.timeout(deadline_s):
            while True:
                try:
                    status = await self.status()
                    if "regions" in status and condition(status):
                        return status
                except DialError:
                    pass
                await asyncio.sleep(0.02)


async def whole(answer):
    body = await answer.read()
    return answer.head.status, dict(answer.head.headers), body


def code(body):
    return json.loads(body)["error"]["code"]


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
