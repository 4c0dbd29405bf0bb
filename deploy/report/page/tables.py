"""Tables beside the figures: every plotted value can be read without seeing the plot."""

from collections.abc import Sequence

from deploy.report.page.markup import Child, Html, tag


def plain_table(heads: Sequence[str], rows: Sequence[Sequence[Child]], num_left: int = 1) -> Html:
    """A table whose first columns are names."""
    head = tag(
        "tr", *(tag("th", words, scope="col", class_=_side(i, num_left)) for i, words in enumerate(heads))
    )
    body = [
        tag("tr", *(tag("td", cell, class_=_side(i, num_left)) for i, cell in enumerate(row))) for row in rows
    ]
    return scrolled(tag("table", tag("thead", head), tag("tbody", *body)), heads[0])


def scrolled(table: Html, said: str) -> Html:
    """A table that may be wider than the screen: it is moved by hand, or by the keyboard once it has the focus."""
    return tag("div", table, class_="wide", tabindex="0", role="region", aria_label=f"Table by {said}")


def _side(column: int, num_left: int) -> str | None:
    return "left" if column < num_left else None


def folded(
    heads: Sequence[str], rows: Sequence[Sequence[Child]], num_left: int = 1, said: str = "As a table"
) -> Html:
    """The same under a line that opens it."""
    return tag("details", tag("summary", said), plain_table(heads, rows, num_left))
