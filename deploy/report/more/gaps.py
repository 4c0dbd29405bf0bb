"""Time to first token against how long the model was left alone: what the platform keeps, and for how long."""

import asyncio
from typing import TYPE_CHECKING

from deploy.report.arms import Start
from deploy.report.more.bench import Bench, said
from deploy.report.more.found import Gap

if TYPE_CHECKING:
    from deploy.report.sample import Sample

REPEATS = 2  # of each gap; a gap of minutes makes more too slow


async def measure_gaps(bench: Bench, gaps_s: tuple[float, ...]) -> tuple[Gap, ...]:
    """Each gap `REPEATS` times in random order, in one region; before each the model was just asked."""
    found: dict[float, list[Sample]] = {gap: [] for gap in sorted(gaps_s)}
    order = list(found) * REPEATS
    bench.rng.shuffle(order)
    async with bench.probe(bench.home or bench.far) as probe:
        for gap_s in order:
            await probe.ask(Start.WARM)  # not counted: the gap begins at its end
            await asyncio.sleep(gap_s)
            sample = await probe.ask(Start.WARM)
            bench.say(f"{probe.region} after {gap_s:g} s alone: {said(sample)}")
            found[gap_s].append(sample)
    return tuple(Gap(probe.region, gap_s, tuple(samples)) for gap_s, samples in found.items())
