"""Pages of figures made one: counts add up, and of what each process sees for itself the worst is said. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

Fold = Callable[[Iterable[float]], float]

SEEN: Final[Mapping[str, Fold]] = MappingProxyType(
    {
        "nearfield_edge_row_age_seconds": max,
        "nearfield_edge_policy_seq": min,
        "nearfield_edge_rows_frozen": min,
        "nearfield_edge_region_up": min,
        "nearfield_edge_region_rtt_seconds": max,
        "nearfield_role_info": max,
        "process_start_time_seconds": min,
    }
)
"""Figures that every process has of one and the same thing."""


def added(pages: Sequence[bytes]) -> bytes:
    """One page of several, in the order of the first; a figure that only a later one has comes behind."""
    if len(pages) == 1:
        return pages[0]
    about: dict[str, list[str]] = {}
    values: dict[str, dict[str, list[float]]] = {}
    for page in pages:
        name = ""
        for line in page.decode().splitlines():
            if line.startswith("# HELP "):
                name = line.split(" ", 3)[2]
                if name not in about:
                    about[name] = []
            if line.startswith("#"):
                if line not in about[name]:
                    about[name].append(line)
                continue
            series, _, value = line.rpartition(" ")
            values.setdefault(name, {}).setdefault(series, []).append(float(value))
    lines = [line for name, head in about.items() for line in (*head, *_samples(name, values.get(name, {})))]
    return "".join(f"{line}\n" for line in lines).encode()


def _samples(name: str, series: Mapping[str, Sequence[float]]) -> list[str]:
    fold = SEEN.get(name, sum)
    return [f"{each} {fold(values):.10g}" for each, values in series.items()]
