"""The HTTP API as a page: docs/reference/http-api.md, from the same tables as the OpenAPI document."""

import json
from collections.abc import Iterator
from typing import Any

from deploy.openapi.document import HEADERS, PARAMETERS, REFUSALS
from deploy.openapi.fields import body
from deploy.openapi.routes import ROUTES, Route
from deploy.schemas.words import Schema

HEAD = """# HTTP API

Made from the tables that requests are read with (`python -m deploy.reference`); a test holds them equal. For
programs the same is [openapi.json](../openapi.json) (OpenAPI 3.1). What each parameter means here, and why
some are refused: [the API](../api.md).

The key goes in `Authorization: Bearer`, or in `x-api-key`. `null` is "not given" everywhere. An unknown
parameter is refused with the nearest known one. `GET /v1/models` and `/v1/models/{id}` list what the key may
use, with each region's state of it.
"""


def page() -> str:
    """The whole page."""
    return "\n".join(
        (
            HEAD,
            *map(_route, ROUTES),
            _table("Headers that a request may have", PARAMETERS),
            _table("Headers of an answer", HEADERS),
            _table("Statuses of a refusal", REFUSALS),
        )
    )


def _route(route: Route) -> str:
    also = f" Also at {' and '.join(f'`{path}`' for path in route.also)}." if route.also else ""
    streams = " Streams with `stream: true`." if route.streams else ""
    schema = body(route.fields, route.required)
    rows = "\n".join(
        f"| `{name}` | {_words(each)} | {'yes' if name in route.required else ''} |"
        for name, each in schema["properties"].items()
    )
    answer = ", ".join(f"`{name}`" for name in route.answer["properties"])
    head = f"## POST {route.path}\n\n{route.summary}{streams}{also}\n"
    return f"{head}\n| parameter | what | required |\n| --- | --- | --- |\n{rows}\n\nAnswers {answer}.\n"


def _words(schema: Schema) -> str:
    """A schema in a few words: `integer, 1 to 4`."""
    return ", ".join(_parts(schema)) or "anything"


def _parts(schema: Schema) -> Iterator[str]:
    if "anyOf" in schema:
        yield " or ".join(dict.fromkeys(_words(each) for each in schema["anyOf"] if each != {"type": "null"}))
    if "enum" in schema:
        yield " or ".join(f"`{json.dumps(each)}`" for each in schema["enum"])
    if "type" in schema:
        yield from _typed(schema)
    if "description" in schema:
        yield schema["description"]


def _typed(schema: Schema) -> Iterator[str]:
    kinds: Any = schema["type"]
    yield next(each for each in ([kinds] if isinstance(kinds, str) else kinds) if each != "null")
    if schema.get("properties"):
        yield "of " + ", ".join(f"`{name}`" for name in schema["properties"])
    if "items" in schema:
        yield f"each {_words(schema['items'])}"
    for low, high, of in (
        ("minimum", "maximum", ""),
        ("minLength", "maxLength", " characters"),
        ("minItems", "maxItems", " items"),
        ("minProperties", "maxProperties", " entries"),
    ):
        if low in schema or high in schema:
            yield _bounds(schema.get(low, 0), schema.get(high)) + of


def _bounds(least: float, most: float | None) -> str:
    return f"{least:,} or more" if most is None else f"{least:,} to {most:,}"


def _table(title: str, rows: dict[str, str]) -> str:
    lines = "\n".join(f"| `{name}` | {text} |" for name, text in rows.items())
    return f"## {title}\n\n| | |\n| --- | --- |\n{lines}\n"
