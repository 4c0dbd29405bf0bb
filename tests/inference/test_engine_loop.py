"""The step loop over a stand-in model: whose fault is whose, and what the node hears."""

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
import torch

from inference.engine.choose.sample import choose_all
from inference.engine.computing import MAX_BAD_STEPS, EngineBroken
from inference.engine.generation import GenerateLoop
from inference.engine.orders.asked import Bounds
from inference.engine.steps.gather import Gather
from inference.engine.steps.scheduler import Scheduler
from inference.engine.steps.slots import SlotPlan
from inference.link import EngineLink, FrameReader, LinkError, frame_bytes, link_pair

VOCABULARY = 50


@dataclass
class Counting:
    """Says the last token plus one; a row that holds a `bad` token makes the whole pass fail, `fault` every pass."""

    bad: frozenset = frozenset()
    fault: Exception | None = None
    passes: list = field(default_factory=list)
    released: list = field(default_factory=list)
    stored: list = field(default_factory=list)
    rows: dict = field(default_factory=dict)
    during: Callable[[], None] = lambda: None

    def forward(self, step):
        self.passes.append([part.id for part in step])
        self.during()
        if self.fault:
            raise self.fault
        if any(self.bad & set(part.tokens) for part in step):
            raise RuntimeError("this row cannot be computed")
        logits = torch.zeros(len(step), VOCABULARY)
        for row, part in enumerate(step):
            logits[row, (part.tokens[-1] + 1) % VOCABULARY] = 9.0
        kept = [row for row, part in enumerate(step) if part.samples]
        return [step[row].id for row in kept], logits[kept]

    def choose(self, logits, samplers):
        return choose_all(logits, samplers)

    def store(self, slot, start, pages):
        self.stored.append((slot, start, pages))

    def release(self, slot, *, scrub):
        self.released.append((slot, scrub))


def serve(model, *messages, stop=True, num_slots=4, opened=None, gather=None, packing=None, **scheduling):
    """Everything the node hears from one loop that was sent `messages` (and then stop)."""
    node, ours = link_pair()
    if opened is not None:
        opened(node)
    loop = GenerateLoop(
        EngineLink(ours),
        Scheduler(num_slots, frozenset({0}), **scheduling),
        model,
        None,
        Bounds(VOCABULARY, 40),
        SlotPlan(num_slots, 40, 0),
        gather,
        packing=packing,
    )
    for message in (*messages, *([{"op": "stop"}] if stop else [])):
        node.sendall(frame_bytes(message))
    heard, fault = [], []

    def run():
        try:
            loop.serve({"op": "ready"})
        except EngineBroken as broken:
            fault.append(broken)
        ours.close()

    running = threading.Thread(target=run)
    running.start()
    frames = FrameReader()
    while data := node.recv(1 << 16):
        heard += frames.receive(data)
    running.join()
    node.close()
    return heard, fault


def add(name, *tokens, **fields):
    return {"op": "add", "id": name, "tokens": list(tokens), "temperature": 0, "max_tokens": 4} | fields


def tokens(heard, name):
    return [token for m in heard if m["op"] == "tokens" and m["id"] == name for token in m["tokens"]]


def test_orders_in_answers_out():
    heard, _ = serve(Counting(), add("a", 10), add("b", 20, 21), add("c", 47))
    assert heard[0] == {"op": "ready", "pongs": True, "slots": 4, "kv_bytes": 0, "max_len": 40}
    assert [tokens(heard, name) for name in "abc"] == [[11, 12, 13, 14], [22, 23, 24, 25], [48, 49]]
    ends = {m["id"]: (m["reason"], m["completion_tokens"], m["stop_id"]) for m in heard if m["op"] == "done"}
    assert ends == {"a": ("length", 4, None), "b": ("length", 4, None), "c": ("stop", 3, 0)}


@pytest.mark.parametrize(("landed", "sizes"), [(0.0, {3}), (1.0, {1, 2, 3})])
def test_the_first_step_waits_for_those_who_come_together(landed, sizes):
    """With weights on their way; else it begins with whoever is heard first."""
    firsts = []

    class Watched(Counting):
        def forward(self, step):
            firsts.append({part.id for part in step})
            return super().forward(step)

    heard, _ = serve(Watched(), add("a", 10), add("b", 20), add("c", 30), gather=Gather(lambda: landed))
    assert [tokens(heard, name) for name in "abc"] == [[11, 12, 13, 14], [21, 22, 23, 24], [31, 32, 33, 34]]
    assert len(firsts[0]) in sizes


class Chores:
    """What an engine packs, in some parts; there is nothing to do before the first step, and none without quiet."""

    def __init__(self, model, parts):
        self._model = model
        self._parts = parts
        self.steps_before = []
        self.num_told = []

    @property
    def is_wanted(self):
        return bool(self._model.passes) and len(self.steps_before) < self._parts

    def answered(self, now):
        self.num_told.append(len(self._model.passes))

    def patience_s(self, now):
        return 0.0 if self.num_told[-1] == 4 else 60.0

    def go_on(self, now):
        self.steps_before.append(len(self._model.passes))


@pytest.mark.parametrize("parts", [2, 6])
def test_it_packs_between_tokens_and_then_while_nobody_asks(parts):
    """A part between two tokens, when the first of them has left; none after the last, until there was quiet."""
    model = Counting()
    chores = Chores(model, parts)

    def stop_later(node):
        threading.Timer(0.5, node.sendall, [frame_bytes({"op": "stop"})]).start()

    heard, _ = serve(model, add("1", 3), stop=False, opened=stop_later, packing=chores)
    assert tokens(heard, "1") == [4, 5, 6, 7]
    assert chores.steps_before == [1, 2, 3, 4, 4, 4][:parts]


def test_a_token_leaves_before_anything_is_packed(monkeypatch):
    order, send = [], EngineLink.send

    def noting(link, messages):
        order.extend(message["op"] for message in messages)
        send(link, messages)

    class Noted(Chores):
        def go_on(self, now):
            super().go_on(now)
            order.append("packed")

    monkeypatch.setattr(EngineLink, "send", noting)
    model = Counting()
    serve(model, add("1", 3, max_tokens=2), packing=Noted(model, 1))
    assert [each for each in order if each != "stats"] == ["ready", "tokens", "packed", "tokens", "done"]


def test_a_row_that_cannot_be_computed_fails_alone():
    model = Counting(bad=frozenset({30}))
    heard, fault = serve(model, add("a", 10), add("bad", 30), add("b", 20))
    assert fault == []
    assert [tokens(heard, name) for name in ("a", "b", "bad")] == [[11, 12, 13, 14], [21, 22, 23, 24], []]
    failed = [m for m in heard if m["op"] == "failed"]
    assert [(m["id"], m["code"]) for m in failed] == [("bad", "engine_error")]
    assert (1, True) in model.released
    assert (0, False) in model.released


def test_a_row_that_fails_later_keeps_what_it_said():
    heard, _ = serve(Counting(bad=frozenset({12})), add("a", 10), add("b", 20))
    assert tokens(heard, "a") == [11, 12]
    assert tokens(heard, "b") == [21, 22, 23, 24]


def test_an_engine_that_computes_nothing_at_all_ends():
    model = Counting(fault=RuntimeError("nothing can be computed"))
    heard, fault = serve(model, *(add(str(n), 10) for n in range(30)), stop=False)
    assert len(fault) == 1
    assert len([m for m in heard if m["op"] == "failed"]) == (MAX_BAD_STEPS - 1) * 4


def test_a_device_that_failed_ends_the_engine_at_once():
    """And no request with it: they are whoever's who computes them again."""
    model = Counting(fault=torch.AcceleratorError("an illegal memory access was encountered"))
    heard, fault = serve(model, add("a", 10), add("b", 20), stop=False)
    assert "illegal memory access" in str(*fault)
    assert len(model.passes) == 1
    assert [m for m in heard if m["op"] != "ready"] == []


def test_single_bad_requests_in_a_row_do_not_end_the_engine_while_others_work():
    messages = [add(str(n), 30 if n % 2 else 10, max_tokens=1) for n in range(20)]
    heard, fault = serve(Counting(bad=frozenset({30})), *messages, num_slots=2)
    assert fault == []
    assert len([m for m in heard if m["op"] == "done"]) == 10


@pytest.mark.parametrize(
    ("name", "settings"), [("choose", {"top_p": 0.5}), ("_with_logprobs", {"logprobs": 1})]
)
def test_a_sampler_fault_is_its_rows_own(monkeypatch, name, settings):
    def broken(*_):
        raise ValueError("sampler")

    where = "inference.engine.choose.sample." + ("Sampler." * (name == "choose")) + name
    monkeypatch.setattr(where, broken)
    heard, _ = serve(Counting(), add("a", 10), add("b", 20, temperature=1.0, **settings))
    assert tokens(heard, "a") == [11, 12, 13, 14]
    assert [(m["id"], m["code"]) for m in heard if m["op"] == "failed"] == [("b", "engine_error")]


def test_nothing_new_after_stop_and_what_runs_is_finished():
    heard, _ = serve(Counting(), add("a", 10), {"op": "stop"}, add("late", 10), stop=False)
    assert tokens(heard, "a") == [11, 12, 13, 14]
    assert [(m["id"], m["code"]) for m in heard if m["op"] == "failed"] == [("late", "stopping")]


@pytest.mark.parametrize("num_slots", [1, 2])
def test_a_cancel_frees_its_slot_before_the_next_step(num_slots):
    """Sent while a step computes: that step is the row's last, and who waited has its slot in the one after it."""
    orders = [add(name, 10, max_tokens=30) for name in ("a", "b")[:num_slots]] + [add("next", 20)]
    model = Counting()
    node, frames = [], {"at": 3}

    def interrupt():
        if len(model.passes) == frames["at"]:
            node[0].sendall(frame_bytes({"op": "cancel", "id": "a"}))

    model.during = interrupt
    heard, fault = serve(model, *orders, num_slots=num_slots, opened=node.append)
    last = max(number for number, ids in enumerate(model.passes, 1) if "a" in ids)

    assert fault == []
    assert last == frames["at"]
    assert model.passes[last][-1] == "next"
    assert len(tokens(heard, "next")) == 4


def test_a_cancel_is_one_done_and_scrubs():
    model = Counting()
    heard, _ = serve(
        model, add("a", 10, max_tokens=30), {"op": "cancel", "id": "a"}, {"op": "cancel", "id": "b"}
    )
    done = [m for m in heard if m["op"] == "done"]
    assert [(m["id"], m["reason"], m["completion_tokens"]) for m in done] == [("a", "cancelled", 0)]


def test_a_node_that_goes_away_ends_the_loop():
    node, ours = link_pair()
    loop = GenerateLoop(
        EngineLink(ours),
        Scheduler(2, frozenset()),
        Counting(),
        None,
        Bounds(VOCABULARY, 40),
        SlotPlan(2, 40, 0),
    )

    def run():
        with suppress(LinkError):
            loop.serve({"op": "ready"})

    running = threading.Thread(target=run)
    running.start()
    assert node.recv(1 << 16)
    node.close()
    running.join(60)
    assert not running.is_alive()


def test_times_are_told_with_the_first_token_only():
    heard, _ = serve(Counting(), add("a", 10))
    with_times = [m for m in heard if m["op"] == "tokens" and "prefill_ms" in m]
    assert len(with_times) == 1
    assert with_times[0]["wait_ms"] == 0.0


def test_what_is_kept_is_stored_before_its_slot_is_given_up_and_told_exactly():
    model = Counting()
    prompt = [10 + number % 30 for number in range(33)]
    messages = [add(name, *prompt, max_tokens=1, tenant="acme") for name in ("a", "b")]
    heard, _ = serve(model, *messages, add("c", *prompt, max_tokens=1), num_slots=1, num_pages=8)
    assert model.stored == [(0, 0, (0, 1)), (0, 0, (2, 3))]
    cached = {m["id"]: m["cached_tokens"] for m in heard if m["op"] == "tokens"}
    assert cached == {"a": 0, "b": 32, "c": 0}
    assert {m["id"]: m["cached_tokens"] for m in heard if m["op"] == "done"} == cached
    figures = [m for m in heard if m["op"] == "stats"]
    assert all(m["prefix_hits"] <= m["prefix_queries"] and m["pages"] == 8 for m in figures)


@dataclass
class InOrder(Counting):
    """Keeps what it was asked for in one list with what the node was told."""

    order: list = field(default_factory=list)

    def store(self, slot, start, pages):
        self.order.append("store")

    def release(self, slot, *, scrub):
        self.order.append("release")


def test_a_token_leaves_before_its_prompt_is_kept_and_before_the_next_pass(monkeypatch):
    """Fresh pages take milliseconds to fill, which a first token need not wait for."""
    model, send = InOrder(), EngineLink.send

    def told(link, messages):
        messages = list(messages)
        model.order.extend(message["op"] for message in messages)
        send(link, messages)

    monkeypatch.setattr(EngineLink, "send", told)
    model.during = lambda: model.order.append("pass")
    prompt = [10 + number % 30 for number in range(17)]
    serve(model, *(add(name, *prompt, max_tokens=1) for name in "ab"), num_slots=1, num_pages=8)

    seen = [each for each in model.order if each not in {"ready", "stats"}]
    assert seen == ["pass", "tokens", "done", "store", "release", "pass", "tokens", "done", "release"]


def test_a_request_under_an_id_that_runs_fails_and_the_other_one_goes_on():
    heard, fault = serve(Counting(), add("a", 10), add("a", 20))
    assert fault == []
    assert tokens(heard, "a") == [11, 12, 13, 14]
    assert [m["code"] for m in heard if m["op"] == "failed"] == ["bad_request"]


def poison(number):
    """A request as bad as they come; `number` says in which way."""
    name = f"poison {number}"
    ways = (
        add(name, 30),
        add(name, 10, 30, max_tokens=30, priority=9),
        add(name, *[10] * 40),
        add(name, *[10] * 39, max_tokens=10**9),
        add(name, *[10] * 38, min_tokens=2, max_tokens=2),
        add(name),
        add(name, 10, max_tokens=0),
        add(name, 10**9),
        add(name, -1),
        add(name, 10, priority=-1),
        add(name, 10, priority=10**30),
        add(name, 10, tenant="x" * 300),
        add(name, 10, temperature=float("1e308")),
        add(name, 10, logit_bias={"11": -100, "12": 100}),
        add(name, 10, logit_bias={str(token): -100 for token in range(VOCABULARY)}),
        add(name, 10, stop_ids=list(range(VOCABULARY)), min_tokens=4),
        add(name, 10, seed=2**64 - 1, temperature=2, top_p=1e-9, top_k=1, min_p=1),
        add(name, 10, what="is this"),
        add(f"good {number // 10}", 10),
        {"op": "cancel", "id": f"good {10**9}"},
        {"op": "cancel", "id": f"poison {number - 3}"},
        {"op": "cancel", "id": ""},
        {"op": "add", "id": 7, "tokens": [1]},
        {"op": "embed", "id": name, "batch": [[1]]},
        {"op": None},
        {},
    )
    return ways[number % len(ways)]


def test_a_crowd_of_poison_does_not_touch_healthy_requests():
    model = Counting(bad=frozenset({30}))
    healthy = {f"good {number}": [3 + number % 9, 7] for number in range(24)}
    messages = []
    for number, (name, prompt) in enumerate(healthy.items()):
        messages += [add(name, *prompt, max_tokens=20, priority=number % 10)]
        messages += [poison(10 * number + each) for each in range(10)]
    heard, fault = serve(model, *messages, num_slots=3, num_pages=8)
    assert fault == []
    for name in healthy:
        assert tokens(heard, name) == list(range(8, 28)), name
        assert [m["completion_tokens"] for m in heard if m["op"] == "done" and m["id"] == name] == [20]
    ends = [m["id"] for m in heard if m["op"] in {"done", "failed"} and str(m["id"]).startswith("poison")]
    assert len(ends) == len(set(ends)), "each has exactly one end"
    asked = {m["id"] for m in messages if m.get("op") in {"add", "embed"} and isinstance(m["id"], str)}
    assert set(ends) == {name for name in asked if name.startswith("poison")}


@pytest.mark.parametrize("count", [0, 2])
def test_logprobs_are_told_when_asked(count):
    heard, _ = serve(Counting(), add("a", 10, logprobs=count, max_tokens=1))
    one = next(m for m in heard if m["op"] == "tokens")
    assert one["logprobs"][0]["token"] == 11
    assert len(one["logprobs"][0]["top"]) == count
