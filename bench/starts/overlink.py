"""Region state over SIMULATED links: there the link is the limit, not the cores that store and reader share."""

from collections.abc import Callable
from statistics import median

from bench.link import Link
from bench.rows import Row, compare
from bench.starts.contestants import Contestant
from bench.starts.limit import RANGE_BYTES, bare_s
from bench.starts.loaders import Order

RATES = (0.5e9, 1.0e9)  # bytes a second: of 5 and 10 Gb/s, about
SHAPES = ((4, RANGE_BYTES), (8, RANGE_BYTES))
OF_LIMIT = 1 / 1.15  # the issue's: at most 1.15x of bytes / limit


def measure(
    far: Link, order: Order, loader: Contestant, num_runs: int, say: Callable[[str], None]
) -> list[Row]:
    """`order` is of the link's near end. The limit is what the fastest bare reader takes over the same link."""
    rows = []
    for rate in RATES:
        far.set(rate)
        limits, loads = list[float](), list[float]()
        for _ in range(num_runs):
            limits.append(min(bare_s(order.store, order.bucket, order.key, order.num_bytes, SHAPES).values()))
            loads.append(loader.load(order)[0])
        size, link = f"{order.num_bytes / 1e9:.2f} GB", f"a SIMULATED link of {rate / 1e9:g} GB/s"
        say(f"{size} over {link}: {median(loads):.3f} s, bare {median(limits):.3f} s")
        told = f"{size}, store to tensors over {link}, every byte checked, against a bare reader"
        rows.append(compare(told, median(loads), median(limits), "s", better="lower", target=OF_LIMIT))
    far.set(0)
    return rows
