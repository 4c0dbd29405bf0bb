"""The node's HTTP: OpenAI's routes for the gateway, and the region's own.

Private; every route but /healthz needs the hop token. Imports neither torch nor transformers.
"""

from __future__ import annotations

import hmac
import json
import time
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from inference.api.answer.chat import ChatReply
from inference.api.answer.completion import CompletionReply
from inference.api.answer.resume import HEADER as RESUME
from inference.api.answer.resume import read_resume
from inference.api.anthropic.reply import MessagesReply
from inference.api.anthropic.request import read_messages_body
from inference.api.body import MAX_BODY_BYTES, read_object
from inference.api.failing import broken, left, no_route, refused, response_of
from inference.api.request.kinds import read_chat, read_completion, read_embedding
from inference.api.responses.reply import ResponsesReply
from inference.api.responses.request import read_response
from inference.api.stay.visit import Visit
from inference.api.tokenize.replies import CountReply, DetokenizeReply, InputCountReply, TokenizeReply
from inference.api.tokenize.requests import read_count, read_detokenize, read_input_count, read_tokenize
from inference.api.vectors.embeddings import EmbeddingReply
from inference.api.vectors.rerank import RerankReply, read_rerank
from inference.outside.passing import PassedReply
from inference.server import BEGAN
from inference.workers.control import MAX_CONTROL_BYTES, LoadReply, read_inspect, read_load, read_unload
from regions.map.headers import ATTEMPT, KEY, TENANT, WAITED
from weights_cache.model.known import KnownRevisions
from wire.figures.metrics import CONTENT_TYPE
from wire.refused.refusal import Refusal
from wire.timing import Phases
from wire.trace.context import TRACEPARENT, TRACESTATE
from wire.trace.context import read as read_context

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import ASGIApp, Receive, Scope, Send

    from inference.api.reply import Reply
    from inference.api.rooms import Rooms
    from wire.trace.tracer import Tracer

OPEN_PATH = "/healthz"
REVISION = "x-nearfield-revision"
ROUTES: tuple[tuple[tuple[str, ...], Callable[[dict[str, Any]], Any], Callable[..., Reply]], ...] = (
    (("/v1/chat/completions",), read_chat, ChatReply),
    (("/v1/completions",), read_completion, CompletionReply),
    (("/v1/responses",), read_response, ResponsesReply),
    (("/v1/responses/input_tokens",), read_input_count, InputCountReply),
    (("/v1/messages",), read_messages_body, MessagesReply),
    (("/v1/messages/count_tokens",), read_count, CountReply),
    (("/v1/embeddings",), read_embedding, EmbeddingReply),
    (("/v1/rerank", "/v2/rerank", "/rerank"), read_rerank, RerankReply),
    (("/v1/tokenize", "/tokenize"), read_tokenize, TokenizeReply),
    (("/v1/detokenize", "/detokenize"), read_detokenize, DetokenizeReply),
)
"""Paths, what reads their bodies, and what answers; the gateway's and the edge's list is `regions.ask.ASKED`."""


def make_app(rooms: Rooms, hop_token: str) -> ASGIApp:
    """The ASGI application, guarded."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.add_exception_handler(Refusal, refused(rooms))
    app.add_exception_handler(HTTPException, no_route)
    app.add_exception_handler(ClientDisconnect, left(rooms))
    app.add_exception_handler(Exception, broken)
    _add_openai_routes(app, rooms)
    _add_control_routes(app, rooms)
    return HopGuard(app, hop_token)


class HopGuard:
    """Lets nobody past without the hop token, whatever the route or method; compares in constant time."""

    def __init__(self, app: ASGIApp, hop_token: str) -> None:
        self._app = app
        self._expected = f"Bearer {hop_token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        scope.setdefault(BEGAN, time.perf_counter())
        if scope["type"] != "http" or scope["path"] == OPEN_PATH or self._shown(scope):
            await self._app(scope, receive, send)
            return
        message = "This port is for Nearfield's own hops; use the edge's address."
        refusal = Refusal(401, "invalid_api_key", message)
        await response_of(refusal, scope["path"])(scope, receive, send)

    def _shown(self, scope: Scope) -> bool:
        values = [value for name, value in scope["headers"] if name == b"authorization"]
        return len(values) == 1 and hmac.compare_digest(values[0], self._expected)


def _add_openai_routes(app: FastAPI, rooms: Rooms) -> None:
    """As plain routes: they read their own bodies, and FastAPI's look for parameters takes 22 us of 45 a request."""
    for paths, read, make in ROUTES:
        answer = _route(rooms, read, make)
        for path in paths:
            app.add_route(path, answer, methods=["POST"])


def _route(
    rooms: Rooms, read: Callable[[dict[str, Any]], Any], make: Callable[..., Reply]
) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        visit = _visit(request, rooms.tracer)
        body = await _body(request, visit)
        visit.resume = read_resume(request.headers.get(RESUME), body)
        if (passed := _passed(rooms, request, visit, body)) is not None:
            return passed
        return make(rooms.host, visit, request.headers.get(REVISION), read(body), rooms.children)

    return answer


def _passed(rooms: Rooms, request: Request, visit: Visit, body: dict[str, Any]) -> Response | None:
    """The answer of an external engine, if the model's is one; its parameters are then that engine's to read."""
    revision_id, model = request.headers.get(REVISION), body.get("model")
    if not isinstance(model, str) or not rooms.host.is_outside(revision_id, model):
        return None
    path, templates = request.url.path, rooms.children.templates
    return PassedReply(rooms.host, visit, revision_id, path, body, templates)


def _add_control_routes(app: FastAPI, rooms: Rooms) -> None:
    revisions = KnownRevisions()

    @app.post("/load")
    async def load(request: Request) -> Response:
        body = await _object(request, MAX_CONTROL_BYTES)
        revision, tenure = read_load(body, rooms.idle_timeout_s, revisions)
        return LoadReply(rooms.host, revision, tenure)

    @app.post("/unload")
    async def unload(request: Request) -> Response:
        revision_id, to_region = read_unload(await _object(request, MAX_BODY_BYTES))
        return _json(200, {"freed_bytes": await rooms.host.unload(revision_id, to_region=to_region)})

    @app.post("/inspect")
    async def inspect(request: Request) -> Response:
        question = read_inspect(await _object(request, MAX_CONTROL_BYTES))
        answer = await rooms.inspect(question)
        if "refused" in answer:
            return _json(422, answer)
        return _json(200, answer)

    @app.get("/status")
    async def status() -> Response:
        return _json(200, rooms.status())

    @app.get("/usage")
    async def usage() -> Response:
        return _json(200, rooms.usage_told())

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(await rooms.metrics_page(), headers={"content-type": CONTENT_TYPE})

    @app.get(OPEN_PATH)
    async def healthz() -> Response:
        if not rooms.is_healthy:
            return _json(503, {"status": "stopping"})
        stalled = rooms.host.stalled
        return (
            _json(503, {"status": "stalled", "models": list(stalled)})
            if stalled
            else _json(200, {"status": "ok"})
        )


def _visit(request: Request, tracer: Tracer | None) -> Visit:
    told = request.headers.get
    visit = Visit.of(told("x-request-id"), told("x-nearfield-start"), told(TENANT), told(KEY), told(ATTEMPT))
    visit.phases = Phases("node", started=request.scope[BEGAN])
    visit.weigh(told("x-nearfield-weight"))
    visit.has_waited = told(WAITED) == "1"
    if (parent := told(TRACEPARENT)) is not None:
        visit.follow(tracer, read_context(parent, told(TRACESTATE) or ""))
    request.state.request_id = visit.request_id
    return visit


async def _body(request: Request, visit: Visit) -> dict[str, Any]:
    found = await _object(request, MAX_BODY_BYTES)
    visit.phases.mark("read")
    return found


async def _object(request: Request, max_bytes: int) -> dict[str, Any]:
    """The body as a strict JSON object; reading ends at the limit. Raises Refusal."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Refusal(415, "bad_request", "Compressed bodies are not read; send it without content-encoding.")
    chunks, num_bytes = [], 0
    async for chunk in request.stream():
        chunks.append(chunk)
        num_bytes += len(chunk)
        if num_bytes > max_bytes:
            break
    return read_object(b"".join(chunks), max_bytes)


def _json(status: int, value: Any) -> Response:
    return JSONBody(value, status)


class JSONBody(Response):
    """A small JSON answer."""

    media_type = "application/json"

    def __init__(self, value: Any, status: int) -> None:
        super().__init__(json.dumps(value).encode(), status)
