"""Which further arms a report is asked for: each costs seconds, so none runs unless it is named. Pure."""

from dataclasses import dataclass, replace
from enum import StrEnum

HERD = 16
GAPS_S = (0.2, 1.0, 3.0)


class More(StrEnum):
    """The names of the further arms, as `--with` takes them."""

    PLACES = "places"
    HERD = "herd"
    GAPS = "gaps"
    SIZES = "sizes"
    SPLIT = "split"


MEANING = {
    More.PLACES: "a client in each region asks each region",
    More.HERD: "many requests at once find the model cold",
    More.GAPS: "a warm model is left alone for a while, then asked",
    More.SIZES: "every other live model starts from the region's store too",
    More.SPLIT: "the same model with its store in another region, on a second platform",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """The further arms of one report, and their sizes."""

    arms: frozenset[More] = frozenset()
    herd: int = HERD
    gaps_s: tuple[float, ...] = GAPS_S
    num_each: int = 5

    def __contains__(self, arm: More) -> bool:
        return arm in self.arms


def parse(names: str, herd: int | None = None, gaps: str | None = None) -> Wanted:
    """The arms in a comma-separated list (`all`: every one); a size that is given names its arm too.

    Raises:
        ValueError: a name that is none of them, or a gap that is no number of seconds.
    """
    given = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in given if name not in {*More, "all"}]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no arm; there are {', '.join(More)} and all")
    arms = set(More) if "all" in given else {More(name) for name in given}
    wanted = Wanted(frozenset(arms | ({More.HERD} if herd else set()) | ({More.GAPS} if gaps else set())))
    wanted = replace(wanted, herd=herd) if herd else wanted
    return replace(wanted, gaps_s=_seconds(gaps)) if gaps else wanted


def _seconds(gaps: str) -> tuple[float, ...]:
    found = tuple(float(gap) for gap in gaps.split(","))
    if not all(0 <= gap <= 86_400 for gap in found):  # also refuses nan
        raise ValueError("gaps are seconds, from 0 to a day, with commas between them")
    return found
