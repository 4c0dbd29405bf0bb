"""A refusal as an edge says it: in the shape of its client's own API, with the request's id, and counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wire.dialect import error_body, id_headers, spoken_path

if TYPE_CHECKING:
    from edge.figures import EdgeFigures
    from wire.http.http1 import Headers
    from wire.listener.exchange import Exchange
    from wire.refused.refusal import Refusal


async def refuse(
    exchange: Exchange, refusal: Refusal, request_id: str, figures: EdgeFigures, says: Headers, called: str
) -> None:
    """Answer with it, and note it under the path's name `called`. Raises the refusal inside an answer."""
    if exchange.status:
        raise refusal
    path = spoken_path(exchange.head)
    figures.refusals.note(refusal, request_id, called)
    headers = (*refusal.headers(), *id_headers(path, request_id), *says)
    await exchange.respond(refusal.status, headers, error_body(path, refusal))
