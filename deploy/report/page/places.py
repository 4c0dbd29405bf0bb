"""The heat map: a client in each region (a row) asks each region (a column). It is a table, coloured."""

from deploy.report.more.found import Place
from deploy.report.page.markup import Html, join, tag
from deploy.report.page.tables import scrolled
from deploy.report.words import ms

LIGHTEST, DARKEST = 6.0, 56.0  # per cent of the colour: words stay readable on every cell


def heat_map(places: tuple[Place, ...]) -> Html:
    """The middle warm request of every cell; the nearest region of each row is marked."""
    clients = list(dict.fromkeys(place.client for place in places))
    regions = list(dict.fromkeys(place.region for place in places))
    cells = {(place.client, place.region): place for place in places}
    known = [place.ttft_ms for place in places if place.ttft_ms is not None]
    most = max(known, default=0.0)
    head = tag("tr", tag("td"), *(tag("th", f"to {region}", scope="col") for region in regions))
    rows = [
        tag(
            "tr",
            tag("th", f"client in {client}", scope="row", class_="left"),
            *(_cell(cells.get((client, region)), most, _soonest(places, client)) for region in regions),
        )
        for client in clients
    ]
    num = max((len(place.samples) for place in places), default=0)
    return join(
        scrolled(tag("table", tag("thead", head), tag("tbody", *rows), class_="heat"), "client and region"),
        tag(
            "p",
            f"The middle of {num} warm requests in each cell; the frame marks each row's soonest.",
            class_="soft",
        ),
    )


def _soonest(places: tuple[Place, ...], client: str) -> str | None:
    row = [place for place in places if place.client == client and place.ttft_ms is not None]
    return min(row, key=lambda place: place.ttft_ms or 0.0).region if row else None


def _cell(place: Place | None, most: float, soonest: str | None) -> Html:
    value = place.ttft_ms if place else None
    if place is None or value is None or most <= 0:
        return tag("td", "failed" if place else "", class_="failed")
    strength = LIGHTEST + (DARKEST - LIGHTEST) * value / most
    added = f"{place.added_ms:g} ms added" if place.added_ms else "no distance added"
    return tag(
        "td",
        tag("b", ms(value)),
        tag("small", added),
        style=f"--heat: {strength:.0f}%",
        class_="soonest" if place.region == soonest else None,
    )
