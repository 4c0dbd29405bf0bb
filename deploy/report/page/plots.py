"""The figures, as markup: shapes in inline SVG that stretches, words in HTML beside and over it, readable at any width.

Each takes plain values and returns markup; nothing is measured or chosen here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from deploy.report.page.markup import Html, join, tag
from deploy.report.page.scale import Linear, Logarithmic

UNITS = 1000  # of the stretched drawings' own width, and of a field's height
BAR_HEIGHT = 10
MIN_LABEL_SHARE = 0.13  # of the track: a narrower part has no room for its words
LAST_TICK_SHARE = 0.93  # a tick further right is written to its left, or it would leave the plot


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a bar from `begin` to `end` on the plot's axis; `colour` is a CSS variable's name."""

    begin: float
    end: float
    colour: str
    label: str
    value: str


@dataclass(frozen=True, slots=True)
class Bar:
    """One row: its name, its parts, the value written at its right."""

    name: str
    parts: Sequence[Part]
    value: str


@dataclass(frozen=True, slots=True)
class Line:
    """One curve of an empirical distribution: (value, share) in ascending order."""

    name: str
    colour: str
    points: Sequence[tuple[float, float]]


def colour(name: str) -> str:
    """The style that gives an element one of the page's colours."""
    return f"--colour: var(--{name})"


def drawing(height: int, said: str, *shapes: Html) -> Html:
    """Shapes that stretch with the page; `said` is for who cannot see them. Its width is `UNITS`."""
    box = f"0 0 {UNITS} {height}"
    return tag("svg", *shapes, viewBox=box, preserveAspectRatio="none", role="img", aria_label=said)


def field_drawing(said: str, *shapes: Html) -> Html:
    """The lines of a square field; a pointer over it reads `said`."""
    return drawing(UNITS, said, tag("title", said), *shapes)


def ticks_below(axis: Linear | Logarithmic, words: Sequence[str]) -> Html:
    """The words of a field's horizontal axis."""
    placed = zip(axis.ticks(), words, strict=True)
    return join(
        *(tag("span", word, class_="tick", style=f"left: {axis.at(t) * 100:.2f}%") for t, word in placed)
    )


def legend(entries: Sequence[tuple[str, str]]) -> Html:
    """What each colour means: (colour, words)."""
    made = (tag("li", tag("span", class_="swatch", style=colour(name)), words) for name, words in entries)
    return tag("ul", *made, class_="legend")


def stacked(parts: Sequence[tuple[float, str, str, str]]) -> list[Part]:
    """Parts end to end from zero: (length, colour, label, value)."""
    made, at = [], 0.0
    for length, name, label, value in parts:
        made.append(Part(at, at + length, name, label, value))
        at += length
    return made


def bars(rows: Sequence[Bar], axis: Linear, tick_words: Sequence[str] = (), *, labels: bool = True) -> Html:
    """Rows of bars over one axis, its ticks below; without words for them, no ticks."""
    below = _axis(axis, tick_words) if tick_words else None
    return tag("div", *(_bar(row, axis, labels=labels) for row in rows), below, class_="plot")


def _bar(row: Bar, axis: Linear, *, labels: bool) -> Html:
    said = f"{row.name}: {row.value}. " + ", ".join(f"{part.label} {part.value}" for part in row.parts)
    drawn = drawing(BAR_HEIGHT, said, *(_rect(part, axis) for part in row.parts))
    words = [_words(part, axis) for part in row.parts] if labels else []
    return tag(
        "div",
        tag("span", row.name, class_="name"),
        tag("div", drawn, *words, class_="track"),
        tag("span", row.value, class_="value"),
        class_="bar",
    )


def _rect(part: Part, axis: Linear) -> Html:
    begin, end = axis.at(part.begin) * UNITS, axis.at(part.end) * UNITS
    return tag(
        "rect",
        tag("title", f"{part.label}: {part.value}"),
        x=begin,
        y=0.0,
        width=max(end - begin, 0.0),
        height=float(BAR_HEIGHT),
        style=f"fill: var(--{part.colour})",
    )


def _words(part: Part, axis: Linear) -> Html | None:
    begin, end = axis.at(part.begin), axis.at(part.end)
    if end - begin < MIN_LABEL_SHARE:
        return None
    place = f"left: {begin * 100:.2f}%; width: {(end - begin) * 100:.2f}%; color: var(--on-{part.colour})"
    return tag("span", f"{part.label} {part.value}", style=place, aria_hidden="true")


def _axis(axis: Linear, tick_words: Sequence[str]) -> Html:
    ticks = [
        tag("span", words, style=f"left: {axis.at(tick) * 100:.2f}%", class_=_tick_class(axis.at(tick)))
        for tick, words in zip(axis.ticks(), tick_words, strict=True)
    ]
    return tag("div", tag("span"), tag("div", *ticks), tag("span"), class_="axis", aria_hidden="true")


def _tick_class(share: float) -> str | None:
    return "end" if share > LAST_TICK_SHARE else None


def distribution(lines: Sequence[Line], axis: Logarithmic, tick_words: Sequence[str], said: str) -> Html:
    """Empirical distributions as steps: the share of requests (upwards) that took at most so long."""
    grid = [
        tag("line", x1=axis.at(tick) * UNITS, x2=axis.at(tick) * UNITS, y1=0.0, y2=float(UNITS))
        for tick in axis.ticks()
    ]
    grid.append(tag("line", x1=0.0, x2=float(UNITS), y1=UNITS / 2, y2=UNITS / 2))
    curves = [
        tag("path", tag("title", line.name), d=_steps(line, axis), style=colour(line.colour))
        for line in lines
    ]
    shares = [
        tag("span", f"{share} %", class_="share", style=f"top: {100 - share}%") for share in (0, 50, 100)
    ]
    drawn = field_drawing(said, *grid, *curves)
    return tag("div", drawn, ticks_below(axis, tick_words), join(*shares), class_="field")


def _steps(line: Line, axis: Logarithmic) -> str:
    """The path: up at each value, on to the next."""
    first = axis.at(line.points[0][0]) * UNITS
    path = [f"M{first:.1f} {UNITS}"]
    for value, share in line.points:
        path.append(f"H{axis.at(value) * UNITS:.1f}V{UNITS * (1 - share):.1f}")
    return "".join(path)
