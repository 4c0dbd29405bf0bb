"""Errors in the words of the client that asked: OpenAI's shape everywhere, Anthropic's under its own route, S3's XML.

The list of models has one path for both: there Anthropic's client is known by the header that it sends each time.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from wire.http.heads import RequestHead
    from wire.http.http1 import Headers
    from wire.refused.refusal import Refusal

MESSAGES: Final = "/v1/messages"
MODELS: Final = "/v1/models"
THEIR_VERSION: Final = "anthropic-version"
X_REQUEST_ID: Final = "x-request-id"
THEIR_REQUEST_ID: Final = "request-id"
ERROR_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
"""Anthropic's, by status; any other is `invalid_request_error` below 500, `api_error` from there."""
S3_CODES: Final = {
    405: "MethodNotAllowed",
    408: "RequestTimeout",
    413: "EntityTooLarge",
    431: "RequestHeaderSectionTooLarge",
    500: "InternalError",
    501: "NotImplemented",
    503: "SlowDown",
}
"""S3's, by status, of what ends a request before its handler knows it; any other is `BadRequest`."""
THREADLESS: Final = "thread_unsupported_request"
"""Anthropic's name for: send the whole conversation instead. Its client looks for it in `details`."""
STREAM_STATUS: Final = 503
"""Of an error that a stream brings after its 200: the request may be sent again."""


def is_anthropic(path: str) -> bool:
    """Whether clients of this path read Anthropic's errors."""
    return path == MESSAGES or path.startswith(f"{MESSAGES}/")


def lists_for_anthropic(head: RequestHead) -> bool:
    """Whether Anthropic's client asks for models."""
    return head.path.startswith(MODELS) and head.get(THEIR_VERSION) is not None


def spoken_path(head: RequestHead) -> str:
    """The path whose dialect a request's client reads: mostly its own."""
    return MESSAGES if lists_for_anthropic(head) else head.path


def id_headers(path: str, request_id: str) -> tuple[tuple[str, str], ...]:
    """A request's id under the name that clients of `path` read, and under ours."""
    ours = (X_REQUEST_ID, request_id)
    return (ours, (THEIR_REQUEST_ID, request_id)) if is_anthropic(path) else (ours,)


def error_body(path: str, refusal: Refusal) -> bytes:
    """The body that says `refusal` to a client of `path`."""
    return translated(path, refusal.status, refusal.body())


def translated(path: str, status: int, body: bytes) -> bytes:
    """An error body of a hop of ours as clients of `path` read it; one that is so already stays as it is."""
    if not is_anthropic(path):
        return body
    try:
        value = json.loads(body)
        error = dict(value["error"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return body
    return body if value.get("type") == "error" else json.dumps(_anthropic(status, error)).encode()


def error_event(path: str, body: bytes) -> bytes:
    """An error body as the last event of a stream."""
    said = translated(path, STREAM_STATUS, body).replace(b"\n", b" ")
    name = b"event: error\n" if is_anthropic(path) else b""
    return b"%bdata: %b\n\n" % (name, said)


def _anthropic(status: int, error: dict[str, Any]) -> dict[str, Any]:
    """`param` and `code` stand beside what Anthropic has."""
    code = error.get("code")
    otherwise = "invalid_request_error" if status < 500 else "api_error"
    kind = ERROR_TYPES.get(status, otherwise)
    said = {"type": kind, "message": error.get("message"), "param": error.get("param")}
    details = {"details": {"error_code": code, "unsupported": ["thread"]}} if code == THREADLESS else {}
    return {"type": "error", "error": said | {"code": code} | details}


def spoken(refusal: Refusal) -> tuple[Headers, bytes]:
    """Headers and body of a refusal in OpenAI's shape."""
    return refusal.headers(), refusal.body()


def spoken_in_s3(refusal: Refusal) -> tuple[Headers, bytes]:
    """The same for clients of a bucket, who read XML alone."""
    code = S3_CODES.get(refusal.status, "BadRequest")
    told = f"<Error><Code>{code}</Code><Message>{escape(refusal.message)}</Message></Error>"
    others = (header for header in refusal.headers() if header[0] != "content-type")
    return (
        ("content-type", "application/xml"),
        *others,
    ), f'<?xml version="1.0" encoding="UTF-8"?>\n{told}'.encode()
