"""A scheduler without an engine: what its steps hold and take, and what service each tenant had of them."""

from collections import Counter

from inference.engine.orders.asked import Generate
from inference.engine.steps.events import Ended
from inference.engine.steps.pace import Pace
from inference.engine.steps.scheduler import Scheduler
from inference.engine.steps.tenants import ANSWER_COST, PROMPT_COST
from tests.inference.simulated import Budget


def order(name, tenant, prompt=4, most=50, **more):
    return Generate(name, tuple(range(10, 10 + prompt)), most, tenant=tenant, **more)


class Engine:
    """A scheduler whose steps take what `cost` says of their rows, and the service that each tenant had."""

    def __init__(self, num_slots, cost=lambda rows, prompt: 0.01, budget=None, **more):
        pace = Pace() if budget is None else Budget(budget)
        self.one = Scheduler(num_slots, frozenset(), pace=pace, **more)
        self.cost, self.now, self.number = cost, 0.0, 0
        self.orders, self.output, self.prompts, self.service = {}, Counter(), {}, Counter()
        self.events, self.steps, self.ended, self.chunks = [], [], [], 0

    def add(self, tenant, times=1, **more):
        events = []
        for _ in range(times):
            new = order(f"{tenant}-{self.number}", tenant, **more)
            self.number += 1
            self.orders[new.id] = new
            events += self.one.add(new, self.now)
        return events

    def step(self):
        events = self.one.preempt(self.now)
        step = self.one.plan(self.now)
        prompt = 0
        for part in step:
            done, end = self.prompts.get(part.id, 0), min(part.start + len(part.tokens), self.length(part.id))
            self.prompts[part.id] = max(done, end)
            tenant = self.orders[part.id].tenant
            self.service[tenant] += (
                PROMPT_COST * max(0, end - max(done, part.start)) + ANSWER_COST * part.samples
            )
            prompt += len(part.tokens) if part.start < self.length(part.id) else len(part.tokens) - 1
            self.output[part.id] += part.samples
        self.chunks = prompt
        took_s = self.cost(sum(part.start >= self.length(part.id) for part in step), prompt)
        self.now += took_s
        chosen = {part.id: 5 for part in step if part.samples}
        events += self.one.commit(step, chosen, self.now, took_s)
        self.steps.append(Counter(self.orders[part.id].tenant for part in step))
        self.events += events
        self.ended += [event.id for event in events if isinstance(event, Ended)]
        return events

    def length(self, name):
        return len(self.orders[name].tokens)

    def waiting(self, tenant):
        return sum(len(each.waiting) for each in self.one._tenants.here if each.name == tenant)

    def slots(self):
        return {each.name: each.num_running for each in self.one._tenants.here}

    def count(self, kind):
        return sum(isinstance(event, kind) for event in self.events)
