"""The whole scheduler in every order of events: requests, steps, faults, cancels, time; nobody is lost or starved."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from inference.engine.gpu.blocks import BlockPool
from inference.engine.orders.asked import Generate
from inference.engine.steps import pages as pages_module
from inference.engine.steps import seats
from inference.engine.steps.drafts import Drafter
from inference.engine.steps.events import Emitted, Ended, Failed, Preempted, Stored
from inference.engine.steps.pages import PAGE_TOKENS, digest
from inference.engine.steps.rows import AGE_S
from inference.engine.steps.scheduler import Scheduler
from tests.evidence import count
from tests.inference.simulated import Budget, Memory

EOS = 2
MAX_WAITING = 4
LONGEST_BLOCKS = 6
"""That a request of this machine may take: 50 + 20 + 25 tokens."""


class Serving(RuleBasedStateMachine):
    """Requests beside what each may expect, and slots and pages that are filled as the steps say."""

    def __init__(self):
        super().__init__()
        self.now, self.serial, self.memory = 0.0, 0, Memory()
        self.alive, self.sampled, self.told = {}, {}, {}

    @initialize(
        num_slots=st.integers(1, 3),
        budget=st.integers(1, 40),
        num_pages=st.integers(0, 12),
        num_blocks=st.sampled_from([0, 0, LONGEST_BLOCKS, LONGEST_BLOCKS + 3, 3 * LONGEST_BLOCKS]),
        most_drafts=st.sampled_from([0, 0, 1, 8]),
    )
    def make(self, num_slots, budget, num_pages, num_blocks, most_drafts):
        """Slots that hold any row, or ones that share so many blocks: then whoever is least urgent may give way."""
        self.num_slots = num_slots
        self.blocks = BlockPool(num_slots, num_blocks) if num_blocks else None
        self.one = Scheduler(
            num_slots,
            frozenset({EOS}),
            max_waiting=MAX_WAITING,
            pace=Budget(budget),
            num_pages=num_pages,
            pool=self.blocks,
            drafter=Drafter(most_drafts) if most_drafts else None,
        )

    @rule(
        first=st.sampled_from([5, 9]),
        same=st.integers(1, 50),
        other=st.integers(0, 20),
        most=st.integers(1, 25),
        tenant=st.sampled_from(["acme", "evil"]),
        priority=st.sampled_from([0, 0, 3, 9]),
    )
    def add(self, first, same, other, most, tenant, priority):
        tokens = (first,) * same + (7,) * other
        new = Generate(str(self.serial), tokens, most, tenant=tenant, priority=priority)
        self.serial += 1
        was_full = self.one.num_waiting >= MAX_WAITING + self.num_slots - self.one.num_running
        self.alive[new.id] = self.memory.orders[new.id] = new
        self.sampled[new.id], self.told[new.id] = [], []
        events = self.one.add(new, self.now)
        assert bool(events) == was_full
        for event in events:
            assert (event.code, self.told[event.id]) == ("overloaded", [])
            out = self.alive[event.id]
            assert out.priority >= priority if out.tenant == tenant else self.num_waiting(out.tenant) > 1
            assert self.num_waiting(tenant) <= max(self.num_waiting(out.tenant), 1)
            assert 1 <= event.retry_after_s <= 60
        self.hear(events)

    def num_waiting(self, tenant):
        """Before a request was turned away, the new one included where it is still to come in."""
        return sum(row.order.tenant == tenant for row in self.one._tenants.waiting)

    @rule(number=st.integers(0, 30))
    def add_again(self, number):
        if self.alive:
            twin = sorted(self.alive)[number % len(self.alive)]
            assert [event.code for event in self.one.add(self.alive[twin], self.now)] == ["bad_request"]

    @rule(number=st.integers(0, 30), fails=st.booleans())
    def leave(self, number, fails):
        if self.alive:
            gone = sorted(self.alive)[number % len(self.alive)]
            events = self.one.fail(gone, "x", "y") if fails else self.one.cancel(gone, self.now)
            assert events[-1].id == gone
            self.hear(events)
            assert gone not in self.alive
            assert self.one.cancel(gone, self.now) == []

    @rule(seconds=st.sampled_from([0.01, 1.0, 2 * AGE_S]))
    def wait(self, seconds):
        self.now += seconds

    @rule(
        tokens=st.lists(st.sampled_from([5, 7, 9, EOS]), min_size=3, max_size=3),
        broken=st.integers(0, 8),
        most_right=st.integers(0, 9),
    )
    def step(self, tokens, broken, most_right):
        """One step; its row number `broken`, if there is one, turns out not to be computable.

        Of each row's guesses the first `most_right` are right.
        """
        self.now += 0.01
        self.hear(self.one.preempt(self.now))
        step = self.one.plan(self.now)
        assert bool(step) == bool(self.alive), "somebody always moves on"
        assert len({part.slot for part in step}) == len(step) <= self.num_slots
        self.memory.compute(step)
        self.look(step)
        if broken < len(step):
            self.hear(self.one.fail(step[broken].id, "poisoned", "why"))
        chosen = {part.id: token for part, token in zip(step, tokens, strict=False) if part.samples}
        num_right = {part.id: min(part.num_drafts, most_right) for part in step if part.num_drafts}
        for part in step:
            if part.id in chosen and part.id in self.alive:
                self.sampled[part.id] += [*part.drafts[:most_right], chosen[part.id]]
        self.hear(self.one.commit(step, chosen, self.now, 0.01, num_right))

    def look(self, step):
        """Each slot holds its own request's tokens, as its own tenant computed them, whatever was copied."""
        for part in step:
            order = self.alive[part.id]
            if self.blocks:
                ahead = part.samples and len(self.sampled[part.id]) + 1 < order.max_tokens
                ahead = ahead and not part.num_drafts
                held = len(self.blocks.blocks(part.slot)) * PAGE_TOKENS
                assert held >= part.start + len(part.tokens) + ahead, "this step, and one begun behind it"
            wanted = [(order.tenant, token) for token in (*order.tokens, *self.sampled[part.id])]
            held = self.memory.slots[part.slot]
            known = held[: len(held) - part.num_drafts]
            assert known == wanted[: len(known)]
            assert part.samples == (known == wanted)
            assert held == [*known, *((order.tenant, token) for token in part.drafts)]
            assert EOS not in part.drafts
            assert len(self.sampled[part.id]) + part.num_drafts < order.max_tokens

    def hear(self, events):
        for event in events:
            match event:
                case Stored():
                    self.memory.store(event)
                case Preempted():
                    self.memory.slots.pop(
                        event.slot, None
                    )  # a row that had a slot and no turn yet left nothing there
                case Emitted():
                    self.told[event.id].append(event.token)
                case Ended():
                    self.ended(event)
                case Failed():
                    del self.alive[event.id]
                    self.memory.slots.pop(event.slot, None)

    def ended(self, event):
        order = self.alive.pop(event.id)
        self.memory.slots.pop(event.slot, None)
        sampled = self.sampled[event.id]
        assert event.num_output == len(sampled) <= order.max_tokens
        assert self.told[event.id] == (sampled if event.stop_id is None else sampled[:-1])
        assert event.num_cached % 16 == 0
        assert event.num_cached < event.num_prompt

    @invariant()
    def nothing_is_leaked(self):
        if hasattr(self, "one"):
            self.one.check()
            assert self.one.num_running + self.one.num_waiting == len(self.alive)

    def teardown(self):
        """Whatever happened, everybody who is left ends within the steps that their tokens take, one by one."""
        most = sum(len(order.tokens) + order.max_tokens for order in self.alive.values()) * 2
        while self.alive:
            self.step([5, 5, 5], broken=99, most_right=1)
            most -= 1
            assert most >= 0


@pytest.mark.parametrize("weak", [False, True], ids=["digests", "digests that collide"])
def test_in_every_order_of_events(weak, monkeypatch):
    if weak:
        monkeypatch.setattr(pages_module, "digest", lambda *parts: bytes([digest(*parts)[0] % 5]))
    monkeypatch.setattr(seats, "GROWTH_TOKENS", 3)  # so that rows do have to ask
    run_state_machine_as_test(
        Serving, settings=settings(max_examples=count(25, 2_000), stateful_step_count=40, deadline=None)
    )


def test_a_low_priority_request_is_served_under_an_endless_stream_of_high_ones():
    """Two requests come for each that can be served, all before it: it waits for its bonus and no longer."""
    one, now = Scheduler(1, frozenset(), max_waiting=10_000, pace=Budget(100)), 0.0
    one.add(Generate("low", (5,), 3, priority=9), now)
    served_at = None
    for number in range(4_000):
        now += 0.05
        one.add(Generate(f"high {number}", (5,), 4), now)
        one.preempt(now)
        step = one.plan(now)
        for event in one.commit(step, {part.id: 5 for part in step}, now, 0.05):
            if isinstance(event, Ended) and event.id == "low":
                served_at = now
        if served_at:
            break
    assert served_at is not None
    assert one.num_preempted <= 1
