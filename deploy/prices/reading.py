"""A price file, read and checked: TOML, every key known, every amount zero or more. docs/plan.md has the format."""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from deploy.prices.book import PriceBook, Prices, PricesError, Scale

SHIPPED = Path(__file__).parent / "prices.toml"
"""List prices with their sources: what the report uses where the operator has no file."""
NAME = "prices.toml"
MAX_PRICES_BYTES = 64 * 1024
AMOUNTS = ("storage_gb_month", "egress_gb", "same_region_gb")
OF_REGION = (*AMOUNTS, "devices")
TOP = ("currency", *OF_REGION, "regions", "report", "rtt_ms", "sources")
OF_REPORT = ("device", "cold_starts", "models")


def usual(state: Path) -> Path | None:
    """The price file of a state folder, if it has one."""
    path = state / NAME
    return path if path.exists() else None


def load(path: Path, regions: Iterable[str] | None = None) -> PriceBook:
    """A price file; `regions` are those that it may speak of, None any. Raises PricesError."""
    try:
        raw = path.read_bytes()
        if len(raw) > MAX_PRICES_BYTES:
            raise PricesError(f"{path} has {len(raw)} bytes; at most {MAX_PRICES_BYTES} are read")
        tree = tomllib.loads(raw.decode())
    except OSError as error:
        raise PricesError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise PricesError(f"{path} is not TOML: {error}") from error
    return read(tree, regions)


def read(tree: Mapping[str, Any], regions: Iterable[str] | None = None) -> PriceBook:
    """The same of a parsed file. Raises PricesError."""
    _known(tree, TOP, "")
    own = _table(tree, "regions", "")
    if regions is not None:
        _known(own, tuple(regions), "regions.")
    return PriceBook(
        everywhere=_of_region(tree, {}),
        regions={region: _of_region(tree, _table(own, region, "regions.")) for region in own},
        scale=_scale(_table(tree, "report", "")) if "report" in tree else None,
        rtt_ms=_distances(_table(tree, "rtt_ms", "")) if "rtt_ms" in tree else None,
        sources=_sources(_table(tree, "sources", ""), _table(tree, "devices", "")),
    )


def _of_region(tree: Mapping[str, Any], own: Mapping[str, Any]) -> Prices:
    _known(own, OF_REGION, "regions.*.")
    devices = _table(tree, "devices", "") | _table(own, "devices", "regions.*.")
    amounts = {name: _amount(name, own.get(name, tree.get(name, 0.0))) for name in AMOUNTS}
    return Prices(
        currency=_word("currency", tree.get("currency", "USD")),
        devices=MappingProxyType({name: _amount(f"devices.{name}", each) for name, each in devices.items()}),
        **amounts,
    )


def _scale(table: Mapping[str, Any]) -> Scale:
    _known(table, OF_REPORT, "report.")
    models = _table(table, "models", "report.")
    return Scale(
        device=_word("report.device", table.get("device")),
        num_cold_starts=_whole("report.cold_starts", table.get("cold_starts")),
        models={name: _whole(f"report.models.{name}", each) for name, each in models.items()},
    )


def _distances(table: Mapping[str, Any]) -> dict[frozenset[str], float]:
    return {_pair(name): _amount(f"rtt_ms.{name}", each) for name, each in table.items()}


def _sources(table: Mapping[str, Any], devices: Iterable[str]) -> dict[str, str]:
    """Who says so, by the key of the figure."""
    _known(table, (*AMOUNTS, *(f"devices.{name}" for name in devices), "rtt_ms"), "sources.")
    return {name: _word(f"sources.{name}", each) for name, each in table.items()}


def _pair(name: str) -> frozenset[str]:
    pair = frozenset(name.split("-"))
    if len(pair) != 2:
        raise PricesError(f"[rtt_ms] names two regions with a hyphen between them, not {name!r}")
    return pair


def _amount(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise PricesError(f"{name} = {value!r} must be a number, 0 or more")
    return float(value)


def _whole(name: str, value: object) -> int:
    amount = _amount(name, value)
    if amount != int(amount):
        raise PricesError(f"{name} = {value!r} must be a whole number")
    return int(amount)


def _word(name: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise PricesError(f"{name} = {value!r} must be a string")
    return value


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
