"""One edge as one process and as several (SO_REUSEPORT): what more of them carry on the cores that there are.

Edge, client and origin share all cores, for one process too: else the second one would only win the core that the
first was kept from. wrk and nginx take their part of them, so on few cores a whole core more cannot be had.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from bench.proxy import load, stage
from bench.rows import Row, compare
from deploy.trust import pki

CONNECTIONS = 64  # the kernel spreads them by their ports: of fewer one process may have most
WARM_S = 1.0


def sizes(num_cores: int) -> tuple[int, ...]:
    """How many processes are tried beside one."""
    return tuple(sorted({2, max(2, num_cores // 2)}))


def rows(scratch: Path, origin: str, authority: pki.LocalAuthority, seconds: float) -> list[Row]:
    """Requests a second and processor time for each, against one process. Raises: Missing, Wrong."""
    num_cores = len(os.sched_getaffinity(0))
    found: list[Row] = []
    for tls in (False, True):
        one = _blast(scratch, origin, authority, seconds, 1, tls=tls)
        for size in sizes(num_cores):
            many = _blast(scratch, origin, authority, seconds, size, tls=tls)
            what = f"{size} processes of an edge against one, {'TLS' if tls else 'plain'}, {num_cores} cores for all"
            found += [
                compare(f"{what}: requests a second", many.per_s, one.per_s, "1/s", better="higher"),
                compare(f"{what}: processor time each", many.cpu_us, one.cpu_us, "us", better="lower"),
            ]
    return found


def _blast(
    scratch: Path, origin: str, authority: pki.LocalAuthority, seconds: float, size: int, *, tls: bool
) -> load.Blast:
    folder = scratch / f"scale-{size}-{tls}"
    with stage.crew(folder, origin, authority, size, tls=tls) as proxy:
        load.blast(proxy, scratch, CONNECTIONS, WARM_S)
        return _median([load.blast(proxy, scratch, CONNECTIONS, seconds) for _ in range(3)])


def _median(found: Sequence[load.Blast]) -> load.Blast:
    return sorted(found, key=lambda each: each.per_s)[len(found) // 2]
