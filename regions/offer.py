"""What a region's row says about one model, as far as no single request changes it: worked out once a row. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from regions.map.region import RolloutState, Tier

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from regions.map.region import ModelRow, RegionRow

TURN_TOKENS: Final = 128  # a queued request waits for a running one to end; half of a usual answer is left
# Bandwidths until a region has measured its own: a fast disk, memory, and a busy ocean cable.
STORE_BYTES_PER_S: Final = 1e9
HOST_BYTES_PER_S: Final = 4e9
ORIGIN_BYTES_PER_S: Final = 50e6
ATTACH_S: Final = 1.0


class Measured(Protocol):
    """What a region was measured at; 0 while unknown. A `RegionRow` is one."""

    @property
    def store_bytes_per_s(self) -> float:
        """From the region's store into a host."""

    @property
    def host_bytes_per_s(self) -> float:
        """From a host's memory to an engine."""

    @property
    def origin_bytes_per_s(self) -> float:
        """From the home region into the region's store."""

    @property
    def attach_s(self) -> float:
        """A start without its bytes."""


class Offer(NamedTuple):
    """One model in one region. `fixed_ms` is `queue_ms` and `ready_ms`; `steady`: live where nothing drains."""

    fixed_ms: float
    row: ModelRow
    queue_ms: float
    ready_ms: float
    prefill_ms_per_token: float
    load: float
    steady: bool


def offers(region: RegionRow) -> Mapping[str, Offer]:
    """The models of a row that a request may be sent for."""
    return {name: _offer(region, row) for name, row in region.models.items() if row.serves}


def offers_after(
    before: Mapping[str, Offer], region: RegionRow, touched: Collection[str]
) -> Mapping[str, Offer]:
    """The offers of a row in which only the models `touched` differ from the one of `before`."""
    made = dict(before)
    for name in touched:
        row = region.models.get(name)
        if row is not None and row.serves:
            made[name] = _offer(region, row)
        else:
            made.pop(name, None)
    return made


def starts_cold(before: Offer | None, now: Offer) -> bool:
    """Whether a model that was served from colder, or by another engine, has become resident: nothing is warmed up yet.

    One that was not served there at all has no herd: it comes with its first push, to every region at once.
    """
    if before is None or now.row.tier is not Tier.RESIDENT:
        return False
    return before.row.tier is not Tier.RESIDENT or before.row.revision != now.row.revision


def _offer(region: RegionRow, row: ModelRow) -> Offer:
    steady = row.state is RolloutState.LIVE and not region.draining
    load = (row.running + row.waiting) / max(1, row.slots)
    queue, ready = queue_ms(row), ready_ms(region, row)
    return Offer(queue + ready, row, queue, ready, row.prefill_ms_per_token, load, steady)


def queue_ms(row: ModelRow) -> float:
    """Expected wait for a slot: nobody waits while one is free; else one turn for each that is ahead."""
    if row.slots == 0 or (row.waiting == 0 and row.running < row.slots):
        return 0.0
    ahead = row.waiting + 1 if row.running >= row.slots else row.waiting
    return ahead * TURN_TOKENS * row.step_ms / row.slots


def ready_ms(region: RegionRow, row: ModelRow) -> float:
    """Expected time until the model can answer: 0 if resident, else bytes through each tier, and attach."""
    left = 1.0 - row.progress.percent / 100.0 if row.progress else 1.0
    return max(0.0, start_s(row.tier, row.bytes, region) * left) * 1e3


def start_s(tier: Tier, num_bytes: int, measured: Measured) -> float:
    """Expected seconds of a start whose weights are `num_bytes` in `tier`; 0 if it is resident."""
    return (
        0.0 if tier is Tier.RESIDENT else (measured.attach_s or ATTACH_S) + bytes_s(tier, num_bytes, measured)
    )


def bytes_s(tier: Tier, num_bytes: int, measured: Measured) -> float:
    """Of a start, what the way of its bytes from `tier` to an engine takes."""
    if tier is Tier.HOST:
        return num_bytes / (measured.host_bytes_per_s or HOST_BYTES_PER_S)
    seconds = num_bytes / (measured.store_bytes_per_s or STORE_BYTES_PER_S)
    if tier is Tier.ORIGIN:
        seconds += num_bytes / (measured.origin_bytes_per_s or ORIGIN_BYTES_PER_S)
    return seconds
