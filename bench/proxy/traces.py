"""What tracing costs an edge: processor time of a small request and what is added to its answer, off against on.

All edges run at once and are asked in turn, so that what the machine does meanwhile is the same for all; spans go to
the origin, which takes whatever it is sent. `every request` is beyond what an operator can have by accident: the
default of 100 traces a second is lifted for it, and what the queue cannot take is dropped and counted, as ever.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from bench.proxy import load, stage
from bench.proxy import paced as edge_paced
from bench.proxy.stage import Proxy
from bench.rows import Row, compare, quantile
from deploy.trust import pki

CONNECTIONS = 32
ROUNDS = 5
PACE_PER_S = 50.0  # to each edge: far below what one carries, so that nobody waits for another
OFF = "off"
ARMS: Mapping[str, tuple[float, float] | None] = {
    OFF: None,
    "1 in 100": (0.01, 100.0),
    "every request, at most 100 a second": (1.0, 100.0),
    "every request": (1.0, 1e9),
}
"""By name the share of requests and the most traces a second."""


def rows(scratch: Path, origin: str, authority: pki.LocalAuthority, seconds: float) -> list[Row]:
    """Each way of tracing against none. Raises: Missing, Wrong."""
    with ExitStack() as stack:
        edges = {
            name: stack.enter_context(
                stage.ours(
                    scratch / f"traces-{at}", origin, authority, tls=False, trace=arm and (origin, *arm)
                )
            )
            for at, (name, arm) in enumerate(ARMS.items())
        }
        cpu_us = _cpu_us(edges, scratch, seconds)
        paced = edge_paced.paced(list(edges.values()), PACE_PER_S, seconds, 64)
    took = {name: paced.took_s[edge] for name, edge in edges.items()}
    found = []
    for name in list(ARMS)[1:]:
        what = f"traced {name}"
        found.append(
            compare(
                f"{what}: processor time a request, against off",
                cpu_us[name],
                cpu_us[OFF],
                "us",
                better="lower",
            )
        )
        for label, share in (("p50", 0.5), ("p99", 0.99)):
            ms = [1000 * quantile(took[each], share) for each in (name, OFF)]
            found.append(
                compare(f"{what}: {label} of an answer, against off", ms[0], ms[1], "ms", better="lower")
            )
    return found


def _cpu_us(edges: Mapping[str, Proxy], scratch: Path, seconds: float) -> dict[str, float]:
    """Medians of rounds, each of which asks every edge in turn."""
    found: dict[str, list[float]] = {name: [] for name in edges}
    for _ in range(ROUNDS):
        for name, edge in edges.items():
            found[name].append(load.blast(edge, scratch, CONNECTIONS, max(1, round(seconds / 2))).cpu_us)
    return {name: median(each) for name, each in found.items()}
