"""What a request is told that failed before it had a reply of its own."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from fastapi import Request, Response
from starlette.exceptions import HTTPException

from wire.dialect import error_body
from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from inference.api.rooms import Rooms

LEFT = 499
"""nginx's status for a request whose client is gone; no client ever sees it."""
log = logging.getLogger("nearfield.node")


def request_id_of(request: Request) -> str | None:
    """The id of a request that failed before it had a reply of its own."""
    known: str | None = getattr(request.state, "request_id", None)
    return known


def response_of(refusal: Refusal, path: str, request_id: str | None = None) -> Response:
    """A refusal in the shape of the route's dialect."""
    named = {"x-request-id": request_id} if request_id else {}
    return Response(error_body(path, refusal), refusal.status, {**dict(refusal.headers()), **named})


def refused(rooms: Rooms) -> Callable[[Request, Exception], Awaitable[Response]]:
    """Who tells a refusal, and notes those of inference."""

    async def tell(request: Request, error: Exception) -> Response:
        if not isinstance(error, Refusal):
            raise error
        path, request_id = request.url.path, request_id_of(request)
        if request_id is not None:  # of inference; orders of the region are said by the region
            rooms.host.figures.refusals.note(error, request_id, path)
        return response_of(error, path, request_id)

    return tell


def left(rooms: Rooms) -> Callable[[Request, Exception], Awaitable[Response]]:
    """Who counts a client that went away while it sent its body."""

    async def tell(request: Request, error: Exception) -> Response:
        """The client went away while it sent its body: nobody reads this answer, and nothing has failed."""
        del request, error
        rooms.host.figures.client_gone(stream=False)
        return Response(status_code=LEFT)

    return tell


async def no_route(request: Request, error: Exception) -> Response:
    """There is no such path, or no such method of it."""
    status = error.status_code if isinstance(error, HTTPException) else 404
    code = "method_not_allowed" if status == 405 else "not_found"
    refusal = Refusal(status, code, f"There is no {request.method} {request.url.path} here.")
    return response_of(refusal, request.url.path)


async def broken(request: Request, error: Exception) -> Response:
    """A fault of ours: the log has it."""
    request_id = request_id_of(request)
    log.error("request %s failed", request_id, exc_info=error)
    refusal = Refusal(
        500, "internal_error", "The node failed at this request; its log has more.", "server_error"
    )
    return response_of(refusal, request.url.path, request_id)
