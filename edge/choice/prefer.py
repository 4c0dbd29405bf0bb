"""Where a client wants its request served: two headers, each a short list of regions and areas. Pure.

`x-nearfield-region: eu` asks there and nowhere else; `x-nearfield-prefer-region: fra, us` asks there first. Names that
mean nothing are refused rather than passed over: a request that should stay in `eu` must not leave it for a slip.
`x-nearfield-prefer-replica` goes on to the region, which asks that node while it has a slot to spare.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from regions.map.headers import PREFER_REGION, PREFER_REPLICA, REGION, REPLICA
from regions.map.policy import ANY
from regions.places import regions_of
from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Collection

    from regions.map.policy import Rules
    from wire.http.http1 import RequestHead

MAX_CHARS: Final = 256
MAX_NAMES: Final = 8
_REPLICA: Final = re.compile(r"[0-9a-f]{8}")


class Where(NamedTuple):
    """What a client asked for: the only regions (None: any), and those to ask first."""

    only: frozenset[str] | None = None
    first: frozenset[str] = frozenset()


ANYWHERE: Final = Where()


def where(head: RequestHead, rules: Rules, regions: Collection[str]) -> Where:
    """What the head of a request asks for. Raises Refusal 400 for a name that is no region and no area."""
    only, first, replica = head.get(REGION), head.get(PREFER_REGION), head.get(PREFER_REPLICA)
    if replica is not None and _REPLICA.fullmatch(replica) is None:
        text = f"The header {PREFER_REPLICA} is a value that {REPLICA} of an answer had."
        raise Refusal(400, "bad_request", text, param=PREFER_REPLICA)
    if only is None and first is None:
        return ANYWHERE
    return Where(
        None if only is None else _regions(REGION, only, rules, regions),
        frozenset() if first is None else _regions(PREFER_REGION, first, rules, regions) or frozenset(),
    )


def _regions(header: str, value: str, rules: Rules, regions: Collection[str]) -> frozenset[str] | None:
    names = [name.strip() for name in value.split(",")]
    if len(value) > MAX_CHARS or len(names) > MAX_NAMES:
        text = f"The header {header} is at most {MAX_NAMES} names of regions or areas."
        raise Refusal(400, "bad_request", text, param=header)
    for name in names:
        if name != ANY and name not in regions and name not in rules.areas:
            known = ", ".join([*sorted(regions), *sorted(rules.areas), ANY])
            text = f"The header {header} names no region or area of ours; there are: {known}."
            raise Refusal(400, "unknown_region", text, param=header)
    return regions_of(names, rules.areas)
