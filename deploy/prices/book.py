"""What things cost, how far regions are, and who says so: all of a price file, as values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

GB = 1e9
HOURS_A_MONTH = 730.0
NO_SOURCE = "no source is named"


class PricesError(Exception):
    """The price file cannot be used; the message names the key and what to write instead."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Of one region: an hour of each kind of device, a GB-month of storage, a GB that leaves it or stays."""

    currency: str
    storage_gb_month: float
    egress_gb: float
    devices: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    same_region_gb: float = 0.0

    def hour_of(self, device: str) -> float | None:
        """An hour of a device, by its own name or its kind (`cuda:1` is a `cuda`); None: it has no price."""
        return self.devices.get(device, self.devices.get(device.partition(":")[0]))

    def stored_hour(self, num_bytes: int) -> float:
        """Keeping so many bytes for an hour."""
        return num_bytes / GB * self.storage_gb_month / HOURS_A_MONTH

    def moved(self, num_bytes: float) -> float:
        """Bringing so many bytes from another region, once."""
        return num_bytes / GB * self.egress_gb

    def read_within(self, num_bytes: float) -> float:
        """Reading so many bytes from the store of the same region."""
        return num_bytes / GB * self.same_region_gb


@dataclass(frozen=True, slots=True)
class Scale:
    """What the report's comparison is computed for. `models` are weights in bytes by the words for them."""

    device: str
    num_cold_starts: int
    models: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class PriceBook:
    """A whole file. `scale` and `rtt_ms` (by pair of regions) are None where it has no such table."""

    everywhere: Prices
    regions: Mapping[str, Prices] = field(default_factory=lambda: MappingProxyType({}))
    scale: Scale | None = None
    rtt_ms: Mapping[frozenset[str], float] | None = None
    sources: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def of(self, region: str) -> Prices:
        """What holds in a region."""
        return self.regions.get(region, self.everywhere)

    def source_of(self, key: str) -> str:
        """Who says so."""
        return self.sources.get(key, NO_SOURCE)
