"""A shell, a tier and engines that follow a script: real processes to kill, the real link, no model."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from inference.api.text.template import TemplateChild
from inference.api.text.tokens import Vocabulary
from inference.link import LinkError, Message, NodeLink
from inference.node import Node, NodeSettings, serve_node
from tests.inference.tokenizers_made import byte_level
from weights_cache.model.revision import ModelFacts, Revision

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

HOP_TOKEN = "hop" * 10
TEXT = "The quick brown fox jumps over the lazy dog, and the dog does not mind it at all."
TEMPLATE = (
    "{% for m in messages %}<|user|>{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
VOCABULARY = Vocabulary.from_bytes(byte_level())
END = VOCABULARY.token_of("<|end|>") or 0
ANSWER = VOCABULARY.encode(TEXT, add_special=False)


def facts(**changes: Any) -> ModelFacts:
    values: dict[str, Any] = {
        "kind": "generate",
        "architecture": "FakeForCausalLM",
        "model_type": "fake",
        "dtype": "float32",
        "num_params": 1,
        "num_layers": 1,
        "max_len": 128,
        "vocab_size": VOCABULARY.num_ids,
        "kv_bytes_per_token": 16,
        "weight_bytes": 1_000_000,
        "eos_token_ids": (END,),
        "has_chat_template": True,
    }
    return ModelFacts(**(values | changes))


def revision(model: str = "acme/m", **changes: Any) -> Revision:
    return Revision(model=model, files=(), tensors=(), extents=(), facts=facts(**changes))


def small_files(template: str | None = TEMPLATE, **more: bytes) -> dict[str, bytes]:
    files = {"tokenizer.json": byte_level(), "config.json": b"{}", **more}
    if template is not None:
        files["chat_template.jinja"] = template.encode()
    return files


@dataclass
class FakeProgress:
    done_bytes: int = 100
    total_bytes: int = 100
    eta_s: float | None = 0.0


@dataclass
class FakeLanding:
    source: Any = "region"
    bytes_read: int = 100
    mapped: Sequence[Any] = ()
    mapped_fds: Sequence[int] = ()
    mapped_bytes: int = 0
    copied_bytes: int = 0
    host_bytes: int = 0
    shared_bytes: int = 0
    phases: dict[str, float] = field(default_factory=lambda: {"fetch": 3.0, "verify": 1.0})
    error: Any = None
    released: bool = False
    fd: int = field(default_factory=lambda: os.memfd_create("fake"))

    @property
    def ready_fd(self) -> int:
        return self.fd

    @property
    def event_fd(self) -> int:
        return self.fd

    @property
    def total_bytes(self) -> int:
        return 100

    def progress(self) -> FakeProgress:
        return FakeProgress()

    def wait(self, timeout_s: float | None = None) -> bool:
        return True

    def release(self) -> None:
        if not self.released:  # as the real one, it may be called twice
            self.released = True
            os.close(self.fd)


@dataclass
class FakeTier:
    files: dict[str, bytes] = field(default_factory=small_files)
    landed: set[str] = field(default_factory=set)
    landings: list[FakeLanding] = field(default_factory=list)
    fault: Exception | None = None
    store_bytes_per_s: float | None = None

    def land(self, wanted: Revision, *, pin: bool = False) -> FakeLanding:
        assert pin
        if self.fault:
            raise self.fault
        landing = FakeLanding("host", 0) if wanted.id in self.landed else FakeLanding("region")
        self.landed.add(wanted.id)
        self.landings.append(landing)
        return landing

    def small_files(self, wanted: Revision) -> dict[str, bytes]:
        return self.files

    def entries(self) -> Sequence[Any]:
        return ()

    def evict(self, revision_id: str) -> int:
        self.landed.discard(revision_id)
        return 100

    def close(self) -> None:
        pass


@dataclass
class Script:
    """How the engines behave. `answer(order)` gives the frames of tokens; `gap_s` lies between them."""

    answer: Callable[[Message], list[list[int]]] = lambda _order: [[token] for token in ANSWER]
    gap_s: float = 0.0
    ready: Message = field(
        default_factory=lambda: {
            "phases": {"attach": 2.0, "wait": 4.0, "warm": 1.0},
            "copied_bytes": 5,
            "slots": 4,
        }
    )
    start: Callable[[FakeEngine], Any] | None = None
    """Runs instead of `ready`, where a test wants another start."""
    failure: dict[str, Any] | None = None
    frozen: bool = False
    """It hears nothing any more, as a stopped process does."""
    dim: int = 4


class FakeEngine:
    """One engine: a process that only sleeps, and a task that speaks for it."""

    def __init__(self, script: Script, spec: Mapping[str, Any], link: NodeLink, process: Any) -> None:
        self.script, self.spec, self.link, self.process = script, spec, link, process
        self.orders: list[Message] = []
        self.lessons: list[Message] = []
        self.cancelled: list[str] = []
        self.running: dict[str, asyncio.Task[None]] = {}
        self.sent: dict[str, int] = {}
        self.task = asyncio.create_task(self.serve())

    async def serve(self) -> None:
        try:
            if self.script.start is not None:
                await self.script.start(self)
            else:
                await self.link.send({"op": "ready", "kv_bytes": 64, **self.script.ready})
            async for message in self.link.messages():
                while self.script.frozen:  # noqa: ASYNC110 - a stopped process has no event either
                    await asyncio.sleep(0.005)
                if not await self.hear(message):
                    break
        except LinkError:
            pass
        finally:
            await self.end()

    async def hear(self, message: Message) -> bool:
        if message["op"] == "stop":
            if self.running:
                await asyncio.wait(self.running.values())
            return False
        if message["op"] == "cancel":
            self.cancelled.append(message["id"])
            if task := self.running.pop(message["id"], None):
                task.cancel()
            return True
        if message["op"] == "ping":
            await self.link.send({"op": "pong"})
            return True
        if message["op"] == "vocabulary":
            self.lessons.append(message)
            return True
        self.orders.append(message)
        work = self.embed if message["op"] == "embed" else self.generate
        task = self.running[message["id"]] = asyncio.create_task(work(message))
        task.add_done_callback(lambda _: self.running.pop(message["id"], None))
        return True

    async def generate(self, order: Message) -> None:
        if self.script.failure is not None:
            await self.link.send({"op": "failed", "id": order["id"], **self.script.failure})
            return
        num_sent, times = len(order.get("resumed", ())), {"queue_ms": 0.1, "prefill_ms": 0.2}
        for frame in self.script.answer(order):
            await asyncio.sleep(self.script.gap_s)
            tokens = frame[: order["max_tokens"] - num_sent]
            num_sent += len(tokens)
            self.sent[order["id"]] = num_sent
            scores = None
            if order["logprobs"] is not None:
                top = [[token, -0.5] for token in range(order["logprobs"])]
                scores = [{"token": token, "logprob": -0.25, "top": top} for token in tokens]
            await self.link.send(
                {"op": "tokens", "id": order["id"], "tokens": tokens, "logprobs": scores, **times}
            )
            times = {"guessed": True} if order.get("predicted") else {}
            if num_sent >= order["max_tokens"]:
                await self.done(order, "length", num_sent)
                return
        await self.done(order, "stop", num_sent + 1)  # the end token is counted and not sent

    async def done(self, order: Message, reason: str, num_tokens: int) -> None:
        counts = {"prompt_tokens": len(order["tokens"]), "completion_tokens": num_tokens, "decode_ms": 1.0}
        await self.link.send({"op": "done", "id": order["id"], "reason": reason, **counts})

    async def embed(self, order: Message) -> None:
        import base64

        import numpy as np

        await asyncio.sleep(self.script.gap_s)
        dim = self.script.dim
        rows = np.array([[len(row), sum(row), *[1.0] * (dim - 2)] for row in order["batch"]], dtype="<f4")
        data = base64.b64encode(rows.tobytes()).decode()
        tokens = sum(map(len, order["batch"]))
        await self.link.send({"op": "vectors", "id": order["id"], "dim": dim, "data": data, "tokens": tokens})

    async def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        for task in list(self.running.values()):
            task.cancel()


@dataclass
class FakeShell:
    script: Script = field(default_factory=Script)
    engines: list[FakeEngine] = field(default_factory=list)
    exits: dict[int, asyncio.Future[int]] = field(default_factory=dict)
    watchers: set[asyncio.Task[None]] = field(default_factory=set)
    is_up: bool = True
    pid: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    asked: list[Any] = field(default_factory=list)
    fork_fault: Exception | None = None

    def mold_soon(self, spec: Mapping[str, Any], key: str) -> None:
        raise AssertionError(f"no engine of {key} said that it could be made ahead: {spec}")

    async def fork(self, spec: Mapping[str, Any], fds: Sequence[int], key: str = "") -> tuple[int, float]:
        if self.fork_fault:
            raise self.fork_fault
        link = await NodeLink.open(socket.socket(fileno=os.dup(fds[3])))
        process = await asyncio.create_subprocess_exec("sleep", "600")
        self.exits[process.pid] = asyncio.get_running_loop().create_future()
        engine = FakeEngine(self.script, spec, link, process)
        self.engines.append(engine)
        self.watchers.add(asyncio.create_task(self.watch(engine)))
        return process.pid, 1.5

    async def watch(self, engine: FakeEngine) -> None:
        status = await engine.process.wait()
        engine.task.cancel()
        await asyncio.wait({engine.task})
        await engine.link.close()
        self.exits[engine.process.pid].set_result(status)

    def exited(self, pid: int) -> asyncio.Future[int]:
        return self.exits[pid]

    async def inspect(self, request: Mapping[str, Any], deadline_s: float) -> dict[str, Any]:
        self.asked.append(request)
        return self.facts

    async def close(self) -> None:
        for engine in self.engines:
            engine.task.cancel()
        if self.watchers:
            await asyncio.wait(self.watchers)


@dataclass
class RunningNode:
    """A node with fakes behind it, on a real port."""

    port: int
    node: Node
    shell: FakeShell
    tier: FakeTier

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.asynccontextmanager
async def running_node(
    tmp_path: Any, script: Script | None = None, tier: FakeTier | None = None, **settings: Any
) -> AsyncIterator[RunningNode]:
    """Serve a node in this loop; everything it started has ended when the block is left."""
    values: dict[str, Any] = {
        "region": "iad",
        "host": "127.0.0.1",
        "port": 0,
        "store": None,
        "hop_token": HOP_TOKEN,
        "state": tmp_path,
        "memory_budget_bytes": 1 << 30,
        "host_cache_bytes": 1 << 30,
        "idle_timeout_s": 60.0,
    }
    made = NodeSettings(**(values | settings))
    shell, tier, child = FakeShell(script or Script()), tier or FakeTier(), TemplateChild()
    node = Node(made, tier, shell, child)
    stop, port = asyncio.Event(), asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve_node(made, node, port.set_result, stop))
    try:
        yield RunningNode(await port, node, shell, tier)
    finally:
        stop.set()
        await serving
        await child.close()
        await shell.close()
