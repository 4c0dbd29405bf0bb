"""Whether a condition holds of a report, region by region, with the numbers that it was decided by. Pure."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from deploy.report.gate.figures import Document, NoFigure, figure, places
from deploy.report.gate.grammar import COMPARISONS, Condition, Name, Number, Operation, Side

BASE = "base"
OPERATIONS: Mapping[str, Callable[[float, float], float]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """One condition in one region, or in none: both sides, and whether what must not be so is so.

    `why_not` says why it could not be decided; that counts as failed: a gate that measures nothing guards nothing.
    """

    condition: str
    region: str | None
    left: float | None
    right: float | None
    holds: bool
    why_not: str | None = None

    @property
    def failed(self) -> bool:
        """Whether the gate is shut."""
        return self.holds or self.why_not is not None

    @property
    def words(self) -> str:
        """In a line."""
        where = f"{self.region}: " if self.region else ""
        if self.why_not is not None:
            return f"{where}{self.condition} cannot be decided: {self.why_not}"
        return f"{where}{self.condition} ({self.left:.6g} against {self.right:.6g})"


def judge(condition: Condition, document: Document, base: Document | None) -> list[Verdict]:
    """The condition in each region that it speaks of; one verdict if it speaks of none or of named ones only."""
    mentioned = _names(condition)
    subject = next((words for words in mentioned if words[0] != BASE), ())
    try:
        own = [words for words in mentioned if words[0] != BASE and len(words) == 2]
        regions: list[str | None] = [*_shared(document, own)] if own else [None]
    except NoFigure as error:
        return [Verdict(condition.text, None, None, None, holds=False, why_not=str(error))]
    return [_judged(condition, document, base, subject, region) for region in regions]


def _shared(document: Document, mentioned: Iterable[tuple[str, ...]]) -> list[str]:
    """The regions that have every row spoken of. Raises: NoFigure."""
    lists = [places(document, words) for words in mentioned]
    found = [region for region in lists[0] if all(region in others for others in lists[1:])]
    if not found:
        raise NoFigure("no region has all of these rows")
    return found


def _judged(
    condition: Condition,
    document: Document,
    base: Document | None,
    subject: tuple[str, ...],
    region: str | None,
) -> Verdict:
    def value(side: Side) -> float:
        if isinstance(side, Number):
            return side.value
        if isinstance(side, Operation):
            return OPERATIONS[side.sign](value(side.left), value(side.right))
        return _figure(side, document, base, subject, region)

    try:
        left, right = value(condition.left), value(condition.right)
    except NoFigure as error:
        return Verdict(condition.text, region, None, None, holds=False, why_not=str(error))
    except ZeroDivisionError:
        return Verdict(condition.text, region, None, None, holds=False, why_not="it divides by zero")
    return Verdict(condition.text, region, left, right, COMPARISONS[condition.sign](left, right))


def _figure(
    name: Name, document: Document, base: Document | None, subject: tuple[str, ...], region: str | None
) -> float:
    if name.words[0] != BASE:
        return figure(document, name.words, region)
    if base is None:
        raise NoFigure("there is no base: name a report to compare with (--base FILE)")
    words = name.words[1:] or subject
    if not words:
        raise NoFigure("base alone means the figure on the other side, and there is none")
    return figure(base, words, region)


def _names(condition: Condition) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []

    def walk(side: Side) -> None:
        if isinstance(side, Name):
            found.append(side.words)
        elif isinstance(side, Operation):
            walk(side.left)
            walk(side.right)

    walk(condition.left)
    walk(condition.right)
    return found
