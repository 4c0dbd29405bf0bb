"""A soak: mixed load for ten minutes (`make evidence`; seconds here) leaves no slot, page or byte behind."""

import json
import os
import random
import threading
import time
from contextlib import suppress
from pathlib import Path
from statistics import median

from inference.api.grammar.structure import read_schema
from inference.engine.generation import GenerateLoop
from inference.engine.model import SlotModel
from inference.engine.orders.asked import Bounds
from inference.engine.steps.scheduler import Scheduler
from inference.engine.steps.slots import SlotPlan
from inference.link import EngineLink, FrameReader, frame_bytes, link_pair
from tests.evidence import IS_WHOLE, count
from tests.inference.fake_engine import END, VOCABULARY
from tests.inference.tiny import made

SOAK_S = count(3, 600)
LEAST_REQUESTS = 150
"""So that each kind is among them, however busy the machine."""
LONG_S = 60
"""In less the process is still finding its size."""
MAX_LEN = 256
NUM_SLOTS, NUM_PAGES = 6, 32
NUM_OPEN = 24
"""Requests on the engine at any time: most of them wait."""
GROWTH_BYTES = 8 << 20
"""Of the whole process, from the second fifth of the soak to the last: 1 MiB a minute would be seen."""
WIDTH = VOCABULARY.num_ids
SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 999}, "ok": {"type": "boolean"}},
    "required": ["n", "ok"],
    "additionalProperties": False,
}
GRAMMAR = read_schema(SCHEMA, "x").grammar


class Crowd:
    """Clients of one engine: it keeps `NUM_OPEN` requests there and remembers how each ended."""

    def __init__(self, node, seed=0):
        self.node, self.draws = node, random.Random(seed)
        self.reader = FrameReader()
        self.shared = [self.draws.randrange(WIDTH) for _ in range(120)]
        self.open, self.ended, self.tokens = set(), {}, {}
        self.kinds, self.texts = {}, {}
        self.num = 0

    def fill(self):
        """Send what is missing, several choices of one prompt at once; and let some go."""
        while len(self.open) < NUM_OPEN:
            kind = self.draws.choice(("short", "long", "shared", "choices", "structure", "over", "bad"))
            fields = self.fields(kind)
            for choice in range(3 if kind == "choices" else 1):
                self.send(kind, fields | {"seed": choice})
        if self.draws.random() < 0.3:
            self.node.sendall(frame_bytes({"op": "cancel", "id": self.draws.choice(sorted(self.open))}))

    def fields(self, kind):
        draws = self.draws
        length = {"long": 200, "over": MAX_LEN, "structure": 8}.get(kind, draws.randrange(1, 40))
        prompt = [draws.randrange(WIDTH) for _ in range(length)]
        if kind in {"shared", "choices"}:
            prompt = self.shared[: draws.randrange(16, 120)] + prompt[:3]
        own = {"structure": {"grammar": GRAMMAR, "temperature": 0.5}, "bad": {"grammar": "start: nothing"}}
        fields = {"tokens": prompt, "max_tokens": draws.randrange(1, 24), "temperature": draws.choice((0, 1))}
        fields |= {"priority": draws.choice((0, 0, 0, 5)), "tenant": draws.choice(("a", "b"))}
        return fields | own.get(kind, {}) | ({"max_tokens": 60} if kind == "structure" else {})

    def send(self, kind, fields):
        self.num += 1
        name = str(self.num)
        self.open.add(name)
        self.kinds[name], self.tokens[name] = kind, []
        self.node.sendall(frame_bytes({"op": "add", "id": name} | fields))

    def hear(self):
        for message in self.reader.receive(self.node.recv(1 << 16)):
            name = message.get("id")
            if message["op"] == "tokens":
                self.tokens[name] += message["tokens"]
            elif message["op"] in {"done", "failed"}:
                self.open.remove(name)  # a second end of one request is an error
                self.end(name, message)

    def end(self, name, message):
        kind, tokens = self.kinds.pop(name), self.tokens.pop(name)
        how = message.get("reason") or message["code"]
        self.ended[kind, how] = self.ended.get((kind, how), 0) + 1
        if kind == "structure" and how == "stop":
            assert set(json.loads(VOCABULARY.decode(tokens))) == {"n", "ok"}
        if message["op"] == "done":
            assert message["completion_tokens"] - len(tokens) == (how == "stop"), "the log is the usage"


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_mixed_load_leaves_nothing_behind(capsys):
    node, ours = link_pair()
    scheduler = Scheduler(NUM_SLOTS, frozenset({END}), num_pages=NUM_PAGES)
    room = SlotPlan(NUM_SLOTS, MAX_LEN, 0, NUM_PAGES)
    model = SlotModel(made("llama", vocab_size=WIDTH, max_position_embeddings=MAX_LEN), room)
    loop = GenerateLoop(EngineLink(ours), scheduler, model, None, Bounds(WIDTH, MAX_LEN), room)
    running = threading.Thread(target=loop.serve, args=({"op": "ready"},))
    running.start()
    node.settimeout(100)
    node.sendall(frame_bytes(VOCABULARY.lesson()))
    crowd, started, sizes = Crowd(node), time.monotonic(), []
    while time.monotonic() < started + SOAK_S or crowd.num < LEAST_REQUESTS:
        crowd.fill()
        crowd.hear()
        if crowd.num >= 50 * (len(sizes) + 1):
            sizes.append(resident_bytes())
    while crowd.open:
        crowd.hear()
    node.sendall(frame_bytes({"op": "stop"}))
    with suppress(TimeoutError):
        running.join(100)

    assert not running.is_alive()
    scheduler.check()
    assert (scheduler.num_running, scheduler.num_waiting) == (0, 0)
    assert scheduler._seats.num_free == NUM_SLOTS
    assert loop._samplers == {}
    assert loop._grammars.num_pending == 0
    assert {kind for kind, _ in crowd.ended} == {
        "short",
        "long",
        "shared",
        "choices",
        "structure",
        "over",
        "bad",
    }
    assert crowd.ended["over", "context_length_exceeded"] == sum(
        num for (kind, _), num in crowd.ended.items() if kind == "over"
    )
    assert sum(num for (_, how), num in crowd.ended.items() if how == "cancelled") > 0
    fifth = max(1, len(sizes) // 5)
    grown = median(sizes[-fifth:]) - median(sizes[fifth : 2 * fifth] or sizes)
    with capsys.disabled():
        if IS_WHOLE:
            print(
                f"\nsoak: {crowd.num} requests in {SOAK_S} s, grown by {grown / 1024:.0f} KiB; {crowd.ended}"
            )
    assert SOAK_S < LONG_S or grown < GROWTH_BYTES
