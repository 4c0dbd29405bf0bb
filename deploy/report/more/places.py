"""The heat map: a client placed in each region asks each region. The distances are SIMULATED by our own relay.

Where the platform has a simulated WAN of its own, its one edge stands at home: a client elsewhere reaches that edge
first, and the relay adds that way only. Where it has none, each region has an edge of its own, and the relay adds the
whole way between the two regions.
"""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from deploy.report.arms import Start
from deploy.report.more.bench import Bench
from deploy.report.more.found import Place
from deploy.report.probe import Probe, address_of
from wire.wan import WanRelay

if TYPE_CHECKING:
    from deploy.report.sample import Sample

Distances = Mapping[frozenset[str], float]
Cell = tuple[str, str]


class UnknownDistance(Exception):
    """The price file has no distance between two of the regions."""


def added_ms(client: str, region: str, edge: str | None, distances: Distances) -> float:
    """Round trip in ms that a relay adds for a client: to the one edge if there is one, else to the region.

    Raises:
        UnknownDistance: nobody said how far it is.
    """
    end = edge or region
    if client == end:
        return 0.0
    found = distances.get(frozenset({client, end}))
    if found is None:
        raise UnknownDistance(
            f"no distance between {client} and {end}: name it under [rtt_ms] in a price file"
        )
    return found


async def measure_places(bench: Bench, distances: Distances, num_each: int) -> tuple[Place, ...]:
    """Every cell `num_each` times, in random order, one request at a time. Raises: UnknownDistance."""
    edge = bench.home if bench.simulated else None
    cells = [(client, region) for client in bench.pins for region in bench.pins]
    adds = {cell: added_ms(*cell, edge, distances) for cell in cells}
    found: dict[Cell, list[Sample]] = {cell: [] for cell in cells}
    async with AsyncExitStack() as stack:
        probes = {cell: await _placed(stack, bench, cell[1], adds[cell]) for cell in cells}
        for region in bench.pins:
            await probes[region, region].ask(Start.WARM)  # not counted: it makes the region warm
        order = cells * num_each
        bench.rng.shuffle(order)
        for cell in order:
            bench.say(f"client in {cell[0]} asks {cell[1]}")
            found[cell].append(await probes[cell].ask(Start.WARM))
    return tuple(Place(*cell, adds[cell], tuple(found[cell])) for cell in cells)


async def _placed(stack: AsyncExitStack, bench: Bench, region: str, rtt_ms: float) -> Probe:
    """A way to ask the region from `rtt_ms` further away."""
    target = address_of(bench.pins[region])
    relay = await WanRelay.start("127.0.0.1", 0, target=target, rtt_ms=rtt_ms)
    stack.push_async_callback(relay.close)
    return await stack.enter_async_context(bench.probe(region, ("127.0.0.1", relay.port)))
