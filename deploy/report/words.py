"""Figures for people: durations, bytes, rates, and what a summary allows to be said."""

from collections.abc import Sequence

from deploy.report.stats import Summary
from wire.counted import counted

DASH = "\N{EN DASH}"
NONE = "\N{EM DASH}"
ONE_RUN = "Each report is one run: what else the machine did in either is in the change, and in no interval."
UNITS = ("B", "kB", "MB", "GB", "TB")


def ms(value: float | None) -> str:
    """A duration given in ms, with three digits that count: 0.42 ms, 6.1 ms, 412 ms, 1.24 s."""
    if value is None:
        return NONE
    if abs(value) >= 1000:
        return f"{value / 1000:.3g} s" if abs(value) < 1e6 else f"{value / 1000:.0f} s"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 1 else 2
    return f"{value:.{digits}f} ms"


def tick(value: float) -> str:
    """A round duration on an axis, given in ms."""
    return f"{value / 1000:g} s" if value >= 1000 else f"{value:g} ms"


def num_bytes(value: float | None) -> str:
    """A size in decimal units, as bandwidth is said: 6.3 MB."""
    if value is None:
        return NONE
    size = float(value)
    for unit in UNITS:
        if size < 1000 or unit == UNITS[-1]:
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"


def per_s(bytes_per_s: float) -> str:
    """A rate of bytes."""
    return f"{num_bytes(bytes_per_s)}/s"


def seconds(value: float) -> str:
    """A duration given in seconds, as people set it: 0.2 s, 5 min."""
    if value >= 60 and value % 60 == 0:
        return f"{value / 60:g} min"
    return f"{value:g} s"


def cold_time(seconds_: float) -> str:
    """A start's time, from milliseconds to minutes."""
    return f"{seconds_ / 60:.1f} min" if seconds_ >= 120 else ms(seconds_ * 1000)


def rate_spread(figure: Summary) -> str:
    """The interval of a rate's median where n allows one, else the range."""
    if figure.least is None or figure.most is None:
        return NONE
    low, high = figure.interval or (figure.least, figure.most)
    return f"{low:.1f}{DASH}{high:.1f}"


def share(value: float | None) -> str:
    """A share in per cent; small ones keep a digit."""
    if value is None:
        return NONE
    return f"{value:.0%}" if value >= 0.1 or value == 0 else f"{value:.1%}"


def estimates(num: int, error: float | None) -> str:
    """How good the gateways' estimates of starts were."""
    return f"the gateways' estimates of {counted(num, 'start')} were off by {share(error)} (median)"


def at_hand(regions: Sequence[str]) -> str:
    """Why a start from `origin` read nothing from home in these regions."""
    where = ", ".join(regions)
    return f"origin in {where}: no byte crossed, since another model there has the same ones; not a start from afar"


def starts(num: int) -> str:
    """How many starts many requests cost."""
    return "one start for all of them" if num == 1 else f"{num} starts"


def best(figure: Summary) -> float | None:
    """The median if there are enough samples for one, else the slowest of the few."""
    return figure.p50 if figure.p50 is not None else figure.most


def best_rate(figure: Summary) -> float | None:
    """A rate's median if there are enough samples for one, else the lowest of the few: the slowest is the smallest."""
    return figure.p50 if figure.p50 is not None else figure.least


def spread(figure: Summary) -> str:
    """The interval of the median where n allows one, else the range."""
    if figure.least is None or figure.most is None:
        return NONE
    low, high = figure.interval or (figure.least, figure.most)
    first, last = ms(low), ms(high)
    same = first.partition(" ")[2] == last.partition(" ")[2]
    return f"{first.partition(' ')[0] if same else first}{DASH}{last}"


def times(cold: float | None, warm: float | None) -> str:
    """How many times longer: 67x."""
    if not cold or not warm:
        return NONE
    ratio = cold / warm
    return f"{ratio:.0f}\N{MULTIPLICATION SIGN}" if ratio >= 10 else f"{ratio:.1f}\N{MULTIPLICATION SIGN}"
