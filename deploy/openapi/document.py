"""The OpenAPI document of what users' keys open, docs/openapi.json: made from the tables that read requests."""

import importlib.metadata
from typing import Any

from deploy.openapi import answers
from deploy.openapi.fields import body
from deploy.openapi.routes import ROUTES, Route
from deploy.schemas.words import Schema

ABOUT = (
    "OpenAI's routes, Anthropic's messages, and those of vLLM, Jina and Cohere for tokens and ranking. Each parameter "
    "is honoured, or the request is refused with 400 and the parameter's name in `error.param`: docs/api.md. Made from "
    "the code (`python -m deploy.reference`); a test holds them equal."
)
REFUSALS: dict[str, str] = {
    "400": "A parameter is wrong, unknown or not honoured; `error.param` names it.",
    "401": "No key, an unknown one, or one that has ended.",
    "403": "The key, the residency rules or the scope does not allow it.",
    "404": "No such model for this key, or no such route.",
    "413": "The body is too large.",
    "429": "The key's quota, or a full engine; `Retry-After` says when.",
    "502": "An engine or region failed after the answer was begun elsewhere, or answered nonsense.",
    "503": "No region can answer now; `Retry-After` says when.",
    "504": "The deadline passed.",
}
HEADERS: dict[str, str] = {
    "x-request-id": "What logs call this request.",
    "x-nearfield-region": "Who answered.",
    "x-nearfield-start": "What the request found: origin, region, host, resident or warm.",
    "x-nearfield-remote-bytes": "Bytes of weights that came from another region for it.",
    "x-nearfield-route": "The choice of the region, term by term.",
    "x-nearfield-revision": "The revision of the model that answered.",
}
PARAMETERS: dict[str, str] = {
    "x-nearfield-region": "Regions or areas, by comma: there and nowhere else.",
    "x-nearfield-prefer-region": "Regions or areas, by comma: there first.",
    "x-nearfield-prefer-replica": "The node whose answer had this `x-nearfield-replica`.",
    "x-nearfield-resume": "`true`: a greedy or deterministic stream goes on elsewhere if its region dies.",
}

VERSION: dict[str, Any] = {
    "name": "anthropic-version",
    "in": "header",
    "schema": {"type": "string"},
    "description": "Any value: the answer, and any error, is in Anthropic's shape.",
}
PAGING: dict[str, str] = {
    "limit": "Of Anthropic's shape: models in a page, 1 to 1000, usually 20.",
    "after_id": "Of Anthropic's shape: the last model of the page before.",
    "before_id": "Of Anthropic's shape: the first model of the page after.",
}


def document() -> dict[str, Any]:
    """The whole document, OpenAPI 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Nearfield",
            "version": importlib.metadata.version("nearfield"),
            "description": ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "https://localhost:8443", "description": "`nearfield up`; else your edge"}],
        "security": [{"key": []}, {"anthropic": []}],
        "paths": _paths(),
        "components": {
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer"},
                "anthropic": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
            "schemas": _schemas(),
        },
    }


def _paths() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for route in ROUTES:
        for number, path in enumerate((route.path, *route.also)):
            found[path] = {"post": _post(route, number)}
    every = _get("models", "The models that the key may use, and where they stand.", "Models", "TheirModels")
    found["/v1/models"] = {"get": every | {"parameters": [VERSION, *map(_query, PAGING)]}}
    one = _get("model", "One of them.", "Model", "TheirModel")
    name = {
        "name": "id",
        "in": "path",
        "required": True,
        "schema": {"type": "string"},
        "description": "ORG/NAME",
    }
    found["/v1/models/{id}"] = {"get": one | {"parameters": [name, VERSION]}}
    return found


def _post(route: Route, number: int) -> dict[str, Any]:
    """`number` counts the names of a route: each operation has an id of its own."""
    kinds: dict[str, Any] = {"application/json": {"schema": _ref(f"{_named(route)}Answer")}}
    if route.streams:
        kinds["text/event-stream"] = {"schema": {"type": "string", "description": "server-sent events"}}
    return {
        "operationId": f"{route.name}{number or ''}",
        "summary": route.summary,
        "parameters": [
            {"name": name, "in": "header", "schema": {"type": "string"}, "description": text}
            for name, text in PARAMETERS.items()
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _ref(f"{_named(route)}Request")}},
        },
        "responses": {"200": _answered(kinds), **_refused(route.path)},
    }


def _query(name: str) -> dict[str, Any]:
    kind = "integer" if name == "limit" else "string"
    return {"name": name, "in": "query", "schema": {"type": kind}, "description": PAGING[name]}


def _get(name: str, summary: str, ours: str, theirs: str) -> dict[str, Any]:
    kinds = {"application/json": {"schema": {"anyOf": [_ref(ours), _ref(theirs)]}}}
    return {
        "operationId": name,
        "summary": summary,
        "responses": {"200": {"description": "The answer.", "content": kinds}, **_refused("")},
    }


def _answered(kinds: dict[str, Any]) -> dict[str, Any]:
    headers = {name: {"schema": {"type": "string"}, "description": text} for name, text in HEADERS.items()}
    return {"description": "The answer.", "headers": headers, "content": kinds}


def _refused(path: str) -> dict[str, Any]:
    error = "TheirError" if path.startswith("/v1/messages") else "Error"
    content = {"application/json": {"schema": _ref(error)}}
    return {status: {"description": text, "content": content} for status, text in REFUSALS.items()}


def _schemas() -> dict[str, Schema]:
    found: dict[str, Schema] = {}
    for route in ROUTES:
        found[f"{_named(route)}Request"] = body(route.fields, route.required)
        found[f"{_named(route)}Answer"] = route.answer
    return found | {
        "ChatChunk": answers.CHAT_CHUNK,
        "Models": answers.MODELS,
        "Model": answers.MODEL,
        "TheirModels": answers.THEIR_MODELS,
        "TheirModel": answers.THEIR_MODEL,
        "Error": answers.ERROR,
        "TheirError": answers.THEIR_ERROR,
    }


def _named(route: Route) -> str:
    return route.name[0].upper() + route.name[1:]


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}
