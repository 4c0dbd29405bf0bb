"""The price file: what a byte across regions and an hour of a device cost, how far regions are, and who says so."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEFAULT = Path(__file__).parent.parent / "prices.toml"
GB = 1_000_000_000
MAX_FILE_BYTES = 1024 * 1024
SHAPE: Mapping[str, frozenset[str]] = {
    "egress": frozenset({"per_gb", "source"}),
    "egress_free": frozenset({"per_gb", "source"}),
    "accelerator": frozenset({"per_hour", "name", "source"}),
    "scale": frozenset({"models", "cold_starts"}),
}


class PricesError(Exception):
    """The price file cannot be used; the message names the key and what it should be."""


@dataclass(frozen=True, slots=True)
class Money:
    """One price and where it comes from."""

    amount: float
    source: str


@dataclass(frozen=True, slots=True)
class Prices:
    """All of a price file. `rtt_ms` by pair of regions; `models` are weights in bytes by the words for them."""

    currency: str
    egress_per_gb: Money
    same_region_per_gb: Money
    accelerator_per_hour: Money
    accelerator: str
    models: Mapping[str, int]
    num_cold_starts: int
    rtt_ms: Mapping[frozenset[str], float]
    sources: tuple[str, ...]

    def cost(self, num_bytes: float, device_s: float, *, apart: bool) -> float:
        """Of one start: its bytes' way out of the store's region, and the device that waits meanwhile."""
        per_gb = self.egress_per_gb if apart else self.same_region_per_gb
        return num_bytes / GB * per_gb.amount + device_s / 3600 * self.accelerator_per_hour.amount


def load_prices(path: Path | None = None) -> Prices:
    """Read a price file, or the one that is shipped. Raises: PricesError."""
    place = path or DEFAULT
    try:
        raw = place.read_bytes()
        if len(raw) > MAX_FILE_BYTES:
            raise PricesError(f"{place} has {len(raw)} bytes; at most {MAX_FILE_BYTES} are read")
        return parse(tomllib.loads(raw.decode()))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PricesError(f"{place} cannot be read: {error}") from error


def parse(tree: Mapping[str, Any]) -> Prices:
    """The prices in a parsed file. Raises: PricesError."""
    unknown = set(tree) - {*SHAPE, "currency", "rtt_ms"}
    if unknown:
        raise PricesError(f"{min(unknown)!r} is not known; there are currency, rtt_ms, {', '.join(SHAPE)}")
    tables = {name: _table(tree, name, keys) for name, keys in SHAPE.items()}
    distances = {key: value for key, value in _mapping(tree, "rtt_ms").items() if key != "source"}
    models = _mapping(tables["scale"], "models")
    return Prices(
        currency=_word(tree, "currency"),
        egress_per_gb=_money(tables["egress"], "egress.per_gb"),
        same_region_per_gb=_money(tables["egress_free"], "egress_free.per_gb"),
        accelerator_per_hour=_money(tables["accelerator"], "accelerator.per_hour"),
        accelerator=_word(tables["accelerator"], "name"),
        models={name: int(_amount(models, name)) for name in models},
        num_cold_starts=int(_amount(tables["scale"], "cold_starts")),
        rtt_ms={_pair(name): _amount(distances, name) for name in distances},
        sources=_sources(tree, tables),
    )


def _sources(tree: Mapping[str, Any], tables: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """What each figure is and who says so, in words."""
    currency, device = tree["currency"], tables["accelerator"]
    egress, free = tables["egress"], tables["egress_free"]
    return (
        f"a GB out of the store's region: {egress['per_gb']} {currency} ({egress['source']})",
        f"a GB within it: {free['per_gb']} {currency} ({free['source']})",
        f"an hour of {device['name']}: {device['per_hour']} {currency} ({device['source']})",
        f"distances: {_word(_mapping(tree, 'rtt_ms'), 'source')}",
    )


def _mapping(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = tree.get(name)
    if not isinstance(value, dict):
        raise PricesError(f"[{name}] is missing or not a table")
    return value


def _table(tree: Mapping[str, Any], name: str, keys: frozenset[str]) -> Mapping[str, Any]:
    table = _mapping(tree, name)
    wrong = keys ^ set(table)
    if wrong:
        raise PricesError(f"[{name}] has exactly {', '.join(sorted(keys))}; see {min(wrong)!r}")
    return table


def _money(table: Mapping[str, Any], name: str) -> Money:
    return Money(_amount(table, name.partition(".")[2]), _word(table, "source"))


def _amount(table: Mapping[str, Any], name: str) -> float:
    value = table.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf:
        raise PricesError(f"{name!r} must be a number, zero or more; it is {value!r}")
    return float(value)


def _word(table: Mapping[str, Any], name: str) -> str:
    value = table.get(name)
    if not isinstance(value, str) or not value:
        raise PricesError(f"{name!r} must be words; it is {value!r}")
    return value


def _pair(name: str) -> frozenset[str]:
    pair = frozenset(name.split("-"))
    if len(pair) != 2:
        raise PricesError(f"[rtt_ms] names two regions with a hyphen between them, not {name!r}")
    return pair
