"""An answer under a grammar that loses its slot and is computed again is the one it would have been."""

import hashlib
import json
import random
import threading

import torch

from inference.api.grammar.structure import read_schema
from inference.engine.choose.sample import choose_all
from inference.engine.generation import GenerateLoop
from inference.engine.orders.asked import Bounds
from inference.engine.steps.scheduler import Scheduler
from inference.engine.steps.slots import SlotPlan
from inference.link import EngineLink, FrameReader, frame_bytes, link_pair
from tests.inference.fake_engine import END, VOCABULARY
from tests.inference.test_engine_grammar import holds, made

WIDTH = VOCABULARY.num_ids
NUM_SLOTS, ALL = 2, 100_000


class Remembered:
    """Random logits that follow from a row's own tokens and nothing else; a slot knows what was computed in it.

    It computes as many steps as it was given.
    """

    def __init__(self, steps):
        self.slots = {}
        self.steps, self.is_out = threading.Semaphore(steps), threading.Event()

    def forward(self, step):
        if not self.steps.acquire(blocking=False):
            self.is_out.set()
            assert self.steps.acquire(timeout=100)
        for part in step:
            assert part.start == len(self.slots.get(part.slot, ())) or part.start == 0
            self.slots[part.slot] = (*self.slots.get(part.slot, ())[: part.start], *part.tokens)
        kept = [part for part in step if part.samples]
        rows = [self.logits(self.slots[part.slot]) for part in kept]
        return [part.id for part in kept], torch.stack(rows) if rows else torch.empty(0, 0)

    @staticmethod
    def logits(tokens):
        seed = int.from_bytes(hashlib.blake2b(repr(tokens).encode(), digest_size=7).digest())
        return torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed)) * 3

    def choose(self, logits, samplers):
        return choose_all(logits, samplers)

    def release(self, slot, *, scrub):
        self.slots.pop(slot)


class Served:
    """A loop on a thread; `ask` sends orders, `read` reads until a condition holds."""

    def __init__(self, num_slots, steps=ALL):
        self.node, ours = link_pair()
        self.scheduler = Scheduler(num_slots, frozenset({END}))
        bounds, room = Bounds(WIDTH, 600), SlotPlan(num_slots, 600, 0)
        self.model = Remembered(steps)
        loop = GenerateLoop(EngineLink(ours), self.scheduler, self.model, None, bounds, room)
        self.running = threading.Thread(target=loop.serve, args=({"op": "ready"},))
        self.running.start()
        self.node.settimeout(100)
        self.reader, self.tokens, self.ends = FrameReader(), {}, {}
        self.node.sendall(frame_bytes(VOCABULARY.lesson()))

    def ask(self, orders, priority):
        for key, fields in orders.items():
            self.tokens[key] = []
            order = {
                "op": "add",
                "id": key,
                "tokens": [1, 2, len(key)],
                "max_tokens": 500,
                "priority": priority,
            }
            self.node.sendall(frame_bytes(order | fields))

    def read(self, is_enough):
        while not is_enough():
            for message in self.reader.receive(self.node.recv(1 << 12)):
                if message["op"] == "tokens":
                    self.tokens[message["id"]] += message["tokens"]
                elif message["op"] in {"done", "failed"}:
                    self.ends[message["id"]] = message

    def stop(self):
        self.node.sendall(frame_bytes({"op": "stop"}))
        self.running.join(100)
        assert not self.running.is_alive()
        self.scheduler.check()


def test_answers_under_a_grammar_survive_the_loss_of_their_slot():
    draw = random.Random(8)
    schemas = {f"patient {number}": made(draw) for number in range(8)}
    patient = {
        key: {"grammar": read_schema(schema, "x").grammar, "seed": number, "temperature": number % 2}
        for number, (key, schema) in enumerate(schemas.items())
    }
    urgent = {
        f"urgent {number}": {"seed": number, "max_tokens": 2, "ignore_eos": True} for number in range(8)
    }
    alone = Served(1)
    for key, fields in patient.items():
        alone.ask({key: fields}, 0)
        alone.read(lambda: len(alone.ends) == len(alone.tokens))
    alone.stop()

    crowd = Served(NUM_SLOTS, steps=0)
    crowd.ask(patient, 9)
    for key, fields in urgent.items():
        assert crowd.model.is_out.wait(
            100
        )  # both slots are patients', and in the midst of it from the second on
        crowd.model.is_out.clear()
        crowd.ask({key: fields}, 0)
        crowd.model.steps.release(4)
    crowd.model.steps.release(ALL)
    crowd.read(lambda: len(crowd.ends) == len(crowd.tokens))
    crowd.stop()

    assert crowd.scheduler.num_preempted > 0
    for key, schema in schemas.items():
        assert crowd.ends[key]["reason"] == "stop"
        assert holds(json.loads(VOCABULARY.decode(crowd.tokens[key])), schema)
        assert crowd.tokens[key] == alone.tokens[key]
