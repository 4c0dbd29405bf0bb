"""`nearfield console`: a link to the edge's page that logs a browser in, once."""

import webbrowser

from deploy.client import Client
from deploy.terminal import show
from deploy.trust.credentials import Credentials

TICKETS = "/nearfield/console/tickets"


def run(credentials: Credentials, *, opens: bool, as_json: bool) -> None:
    """Print the link, and open it if that is wanted.

    Raises:
        Unreachable: the edge does not answer.
        ApiError: it gives no ticket.
    """
    told = Client(credentials, admin=True).post(TICKETS, {}).body
    url = f"{credentials.admin_url}{told['path']}"
    if opens:
        webbrowser.open(url)
    if as_json:
        show.emit_json({"url": url, "valid_s": told["valid_s"]})
        return
    console = show.console()
    console.print(url, markup=False, soft_wrap=True)
    console.print(
        f"[dim]good for one visit, within {told['valid_s']:.0f} s; the browser is to trust {credentials.ca}[/]"
    )
