"""What an edge says of itself to the others, by way of the regions, which every edge reaches. Pure.

Counts since the process began and nothing else: no model, tenant, key or request is in it. An edge's word is believed
as far as the hop token goes, as its requests are. Fields that are not known yet are passed over: edges and regions are
upgraded one after another.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

PERIOD_S: Final = 2.0  # half as often as regions speak: it is for people to look at, nothing is chosen by it
KEPT_S: Final = (
    3600.0  # a silent edge is told of for so long: by then somebody has looked, or it left the fleet
)
MAX_EDGES: Final = 256
MAX_REGIONS: Final = 64  # in one word
MAX_WORD_BYTES: Final = 16 << 10
MAX_WORDS_BYTES: Final = 4 << 20
MAX_NAME_CHARS: Final = 64
MAX_COUNT: Final = 1 << 53  # JSON numbers are exact up to here


class BadWordError(ValueError):
    """Bytes that are no word of an edge, or no answer of a region."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A region as that edge sees it: requests it `answered` in all, `busy` ones now; `rtt_ms` None: not measured."""

    answered: int
    busy: int
    rtt_ms: float | None
    down: bool


@dataclass(frozen=True, slots=True)
class Word:
    """An edge of so many `processes`; `failed` counts answers other than 200 since it began, `up_s` ago.

    `up_s` None: an edge of a release that did not say it.
    """

    edge: str
    processes: int
    failed: int
    regions: Mapping[str, Passage]
    up_s: float | None = None


def encode(word: Word) -> bytes:
    """As it is sent to a region."""
    return json.dumps(asdict(word), separators=(",", ":")).encode()


def encode_words(heard: Mapping[str, tuple[Word, float]], now: float) -> bytes:
    """What `read_words` reads: words by edge with the time when each came, told at `now` (loop time)."""
    edges = [{"age_s": round(now - at, 3), "word": asdict(word)} for word, at in heard.values()]
    return json.dumps({"edges": edges}, separators=(",", ":")).encode()


def read_word(data: bytes) -> Word:
    """An edge's word. Raises BadWordError."""
    return _word(_object(_parse(data, MAX_WORD_BYTES)))


def read_words(data: bytes) -> list[tuple[Word, float]]:
    """What a region has heard of edges, each with its age in s. Raises BadWordError."""
    edges = _object(_parse(data, MAX_WORDS_BYTES)).get("edges")
    if not isinstance(edges, list) or len(edges) > MAX_EDGES:
        raise BadWordError(f"not a list of at most {MAX_EDGES} edges")
    each = [_object(edge) for edge in edges]
    return [(_word(_object(edge.get("word"))), _amount(edge.get("age_s"))) for edge in each]


def _parse(data: bytes, max_bytes: int) -> object:
    if len(data) > max_bytes:
        raise BadWordError(f"longer than {max_bytes:,} bytes")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadWordError("not JSON") from error


def _word(value: dict[str, Any]) -> Word:
    regions = _object(value.get("regions"))
    if len(regions) > MAX_REGIONS:
        raise BadWordError(f"more than {MAX_REGIONS} regions")
    passages = {_name(region): _passage(_object(each)) for region, each in regions.items()}
    return Word(
        _name(value.get("edge")),
        _count(value.get("processes")),
        _count(value.get("failed")),
        passages,
        _amount_or_none(value.get("up_s")),
    )


def _passage(value: dict[str, Any]) -> Passage:
    return Passage(
        _count(value.get("answered")),
        _count(value.get("busy")),
        _amount_or_none(value.get("rtt_ms")),
        value.get("down") is True,
    )


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadWordError("not an object")
    return value


def _name(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME_CHARS or not value.isprintable():
        raise BadWordError("not a name")
    return value


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value <= MAX_COUNT:
        raise BadWordError("not a count")
    return value


def _amount(value: object) -> float:
    if type(value) not in {int, float} or not 0 <= value <= MAX_COUNT:  # type: ignore[operator]
        raise BadWordError("not an amount of zero or more")
    return float(value)  # type: ignore[arg-type]


def _amount_or_none(value: object) -> float | None:
    return None if value is None else _amount(value)
