"""The price file as the report's comparison needs it: what a start costs beside its store and far from it, and why."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.prices.book import PriceBook, Prices, PricesError, Scale
from deploy.prices.reading import SHIPPED, load


@dataclass(frozen=True, slots=True)
class Terms:
    """What the comparison is made with. `prices` are those that hold everywhere: no region has the store elsewhere."""

    prices: Prices
    device_hour: float
    scale: Scale
    rtt_ms: Mapping[frozenset[str], float]
    sources: tuple[str, ...]

    @property
    def currency(self) -> str:
        """Of all amounts."""
        return self.prices.currency

    def cost(self, num_bytes: float, device_s: float, *, apart: bool) -> float:
        """Of one start: its bytes' way out of the store, and the device that waits meanwhile."""
        moved = self.prices.moved(num_bytes) if apart else self.prices.read_within(num_bytes)
        return moved + device_s / 3600 * self.device_hour


def load_terms(path: Path | None = None, regions: Iterable[str] | None = None) -> Terms:
    """Of a price file, or the one that is shipped, which also fills in tables that are only the report's.

    Raises:
        PricesError: the file cannot be used, or has no price for the device that waits.
    """
    shipped = load(SHIPPED)
    return terms(load(path, regions) if path else shipped, shipped)


def terms(book: PriceBook, shipped: PriceBook) -> Terms:
    """See `load_terms`."""
    scale, rtt_ms = book.scale or shipped.scale, book.rtt_ms or shipped.rtt_ms
    if scale is None or rtt_ms is None:
        raise PricesError("[report] and [rtt_ms] are missing")
    hour = book.everywhere.hour_of(scale.device)
    if hour is None:
        raise PricesError(f"[devices] has no price for `{scale.device}`, the report's device that waits")
    distances = (book if book.rtt_ms else shipped).source_of("rtt_ms")
    return Terms(book.everywhere, hour, scale, rtt_ms, _sources(book, scale.device, hour, distances))


def _sources(book: PriceBook, device: str, hour: float, distances: str) -> tuple[str, ...]:
    """What each figure is and who says so, in words."""
    prices = book.everywhere
    money = prices.currency
    return (
        f"a GB out of the store's region: {prices.egress_gb:g} {money} ({book.source_of('egress_gb')})",
        f"a GB within it: {prices.same_region_gb:g} {money} ({book.source_of('same_region_gb')})",
        f"an hour of {device}: {hour:g} {money} ({book.source_of(f'devices.{device}')})",
        f"distances: {distances}",
    )
