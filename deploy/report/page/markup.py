"""Markup that cannot be injected into: every string is escaped unless it is markup already."""

from html import escape


class Html(str):
    """Text that is markup already; only this file and the page's own constants make it."""

    __slots__ = ()


Child = str | Html | None
Attribute = str | float | None


def text(value: str) -> Html:
    """The value as markup that shows it."""
    return value if isinstance(value, Html) else Html(escape(value))


def join(*parts: Child) -> Html:
    """The parts one after another; None is nothing."""
    return Html("".join(text(part) for part in parts if part is not None))


def tag(name: str, *children: Child, **attributes: Attribute) -> Html:
    """An element. `class_` is `class`, other underscores become hyphens; attributes that are None are left out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_written(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{written}>{join(*children)}</{name}>")


def coded(words: str) -> Html:
    """Words in which what stands between backticks is a command, and stays on one line."""
    parts = enumerate(words.split("`"))
    return join(*(tag("code", part) if place % 2 else part for place, part in parts))


def _written(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.3f}".rstrip("0").rstrip(".")
