"""Points on a field with two axes: drawn as HTML over SVG lines, so that dots stay round at any width."""

from collections.abc import Sequence
from dataclasses import dataclass

from deploy.report.page.markup import Html, join, tag
from deploy.report.page.plots import UNITS, colour, field_drawing, ticks_below
from deploy.report.page.scale import Linear, Logarithmic

Axis = Linear | Logarithmic


@dataclass(frozen=True, slots=True)
class Dot:
    """One measured point; `label` is what a pointer over it says."""

    x: float
    y: float
    colour: str
    label: str


@dataclass(frozen=True, slots=True)
class Ray:
    """A line through given points, such as a ceiling."""

    points: Sequence[tuple[float, float]]
    colour: str
    label: str


def scatter(
    dots: Sequence[Dot],
    rays: Sequence[Ray],
    axes: tuple[Axis, Axis],
    words: tuple[Sequence[str], Sequence[str]],
    said: str,
) -> Html:
    """The field: dots, lines, ticks. `words` are those of the ticks, along x and along y."""
    across, up = axes
    grid = [tag("line", x1=_x(t, across), x2=_x(t, across), y1=0.0, y2=float(UNITS)) for t in across.ticks()]
    grid += [tag("line", x1=0.0, x2=float(UNITS), y1=_y(t, up), y2=_y(t, up)) for t in up.ticks()]
    lines = [
        tag("path", tag("title", ray.label), d=_path(ray, axes), style=colour(ray.colour)) for ray in rays
    ]
    marks = [
        tag(
            "span",
            class_="dot",
            title=dot.label,
            style=f"left: {across.at(dot.x) * 100:.2f}%; bottom: {up.at(dot.y) * 100:.2f}%; {colour(dot.colour)}",
        )
        for dot in dots
    ]
    beside = [
        tag("span", word, class_="share", style=f"top: {100 - up.at(t) * 100:.2f}%")
        for t, word in zip(up.ticks(), words[1], strict=True)
    ]
    return tag(
        "div",
        field_drawing(said, *grid, *lines),
        join(*marks),
        ticks_below(across, words[0]),
        join(*beside),
        class_="field spacious",
    )


def _x(value: float, axis: Axis) -> float:
    return axis.at(value) * UNITS


def _y(value: float, axis: Axis) -> float:
    return (1 - axis.at(value)) * UNITS


def _path(ray: Ray, axes: tuple[Axis, Axis]) -> str:
    places = [f"{_x(x, axes[0]):.1f} {_y(y, axes[1]):.1f}" for x, y in ray.points]
    return "M" + "L".join(places)
