"""What things cost, from the operator's own price file; without one a plan says so and names no money.

currency = "USD"
storage_gb_month = 0.02          # a GB of one region's store
egress_gb = 0.02                 # a GB that leaves the home region
[devices]                        # an hour of one, by what `[nodes.NAME] device` says
cpu = 0.10
cuda = 2.50
[regions.fra]                    # what differs there
storage_gb_month = 0.023
[regions.fra.devices]
cuda = 3.10
"""

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

GB = 1e9
HOURS_A_MONTH = 730.0
MAX_PRICES_BYTES = 64 * 1024
TOP = ("currency", "storage_gb_month", "egress_gb", "devices", "regions")
OF_REGION = ("storage_gb_month", "egress_gb", "devices")


class PricesError(Exception):
    """The price file cannot be used; the message names the key and what to write instead."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Of one region: an hour of each kind of device, a GB-month of storage, a GB that comes from home."""

    currency: str
    storage_gb_month: float
    egress_gb: float
    devices: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))

    def hour_of(self, device: str) -> float | None:
        """An hour of a device, by its own name or its kind (`cuda:1` is a `cuda`); None: it has no price."""
        return self.devices.get(device, self.devices.get(device.partition(":")[0]))

    def stored_hour(self, num_bytes: int) -> float:
        """Keeping so many bytes for an hour."""
        return num_bytes / GB * self.storage_gb_month / HOURS_A_MONTH

    def moved(self, num_bytes: int) -> float:
        """Bringing so many bytes from home, once."""
        return num_bytes / GB * self.egress_gb


def load(path: Path, regions: tuple[str, ...]) -> dict[str, Prices]:
    """The prices of each region. Raises PricesError."""
    try:
        raw = path.read_bytes()
        if len(raw) > MAX_PRICES_BYTES:
            raise PricesError(f"{path} has {len(raw)} bytes; at most {MAX_PRICES_BYTES} are read")
        tree = tomllib.loads(raw.decode())
    except OSError as error:
        raise PricesError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise PricesError(f"{path} is not TOML: {error}") from error
    return read(tree, regions)


def read(tree: Mapping[str, Any], regions: tuple[str, ...]) -> dict[str, Prices]:
    """The same of a parsed file. Raises PricesError."""
    _known(tree, TOP, "")
    own = _table(tree, "regions", "")
    _known(own, regions, "regions.")
    return {region: _of_region(tree, _table(own, region, "regions.")) for region in regions}


def _of_region(tree: Mapping[str, Any], own: Mapping[str, Any]) -> Prices:
    _known(own, OF_REGION, "regions.*.")
    devices = _table(tree, "devices", "") | _table(own, "devices", "regions.*.")
    currency = tree.get("currency", "USD")
    if not isinstance(currency, str):
        raise PricesError(f"currency = {currency!r} must be a string")
    return Prices(
        currency,
        _amount("storage_gb_month", own.get("storage_gb_month", tree.get("storage_gb_month", 0.0))),
        _amount("egress_gb", own.get("egress_gb", tree.get("egress_gb", 0.0))),
        MappingProxyType({name: _amount(f"devices.{name}", each) for name, each in devices.items()}),
    )


def _amount(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise PricesError(f"{name} = {value!r} must be a number, 0 or more")
    return float(value)


def _table(tree: Mapping[str, Any], name: str, above: str) -> dict[str, Any]:
    found = tree.get(name, {})
    if not isinstance(found, dict):
        raise PricesError(f"{above}{name} must be a table")
    return found


def _known(table: Mapping[str, Any], names: tuple[str, ...], above: str) -> None:
    for key in table:
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"known keys: {', '.join(names)}"
            raise PricesError(f"unknown key `{above}{key}`; {hint}")
