"""Many requests at once for a model that is cold: how many starts and bytes they cost, and who waited how long."""

import asyncio
import time

from deploy.report.arms import Start
from deploy.report.more.bench import Bench
from deploy.report.more.found import Herd


async def measure_herd(bench: Bench, num: int) -> Herd:
    """`num` requests, all due at the same moment, to one region with the model in its store. Raises: NotSetError."""
    async with bench.probe(bench.far) as probe:
        await bench.admin.prepare(probe.region, bench.question.model, Start.REGION)
        await probe.warm_up(num)
        bench.say(f"{num} at once to {probe.region}")
        due_s = time.perf_counter()
        samples = await asyncio.gather(*(probe.ask_at(Start.REGION, due_s) for _ in range(num)))
    return Herd(probe.region, tuple(samples))
