"""What a reader of a request's field accepts, as JSON Schema: taken from the reader itself, with its bounds.

A reader made by `number`, `integer`, `string`, `one_of`, `array` or `token_ids` keeps its bounds in its closure.
One written out by hand stands in `SHAPES`, by its name; one that is in neither is an error, so a new reader is never
left out of what is published.
"""

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from deploy.openapi import shapes
from deploy.schemas.words import FLAG, TEXT, Schema, one_of, several

READERS = "inference.api.fields"
Bounds = Mapping[str, Any]


def _string(bounds: Bounds) -> Schema:
    return TEXT | {"minLength": bounds["least_chars"], "maxLength": bounds["most_chars"]}


def _range(kind: str) -> Callable[[Bounds], Schema]:
    return lambda bounds: {"type": kind, "minimum": bounds["least"], "maximum": bounds["most"]}


def _array(bounds: Bounds) -> Schema:
    return several(schema(bounds["of"])) | {"minItems": bounds["least"], "maxItems": bounds["most"]}


def _ids(bounds: Bounds) -> Schema:
    return several({"type": "integer", "minimum": 0}) | {"minItems": 1, "maxItems": bounds["most"]}


MADE: Mapping[str, Callable[[Bounds], Schema]] = MappingProxyType(
    {
        "string": _string,
        "number": _range("number"),
        "integer": _range("integer"),
        "one_of": lambda bounds: one_of(*bounds["words"]),
        "array": _array,
        "token_ids": _ids,
    }
)
"""What makes readers -> what a reader of it accepts, by the closure that it left."""
PLAIN: Mapping[str, Schema] = MappingProxyType(
    {f"{READERS}.boolean": FLAG, f"{READERS}.mapping": {"type": "object"}, **shapes.SHAPES}
)


def schema(reader: Callable[..., Any]) -> Schema:
    """What `reader` accepts. Raises KeyError for one that nobody described."""
    name = known_as(reader)
    maker, _, rest = name.removeprefix(f"{READERS}.").partition(".")
    if rest == "<locals>.read":
        return MADE[maker](inspect.getclosurevars(reader).nonlocals)
    return dict(PLAIN[name])


def known_as(reader: Callable[..., Any]) -> str:
    """Its module and name; of one without a name the bounds that it reads with, too."""
    bounds = [each for each in reader.__code__.co_names if each.startswith("MAX_")]
    name = f"{reader.__module__}.{reader.__qualname__}"
    return " ".join([name, *bounds]) if name.endswith("<lambda>") else name


def body(fields: Mapping[str, Callable[..., Any]], required: tuple[str, ...]) -> Schema:
    """A route's whole body by the table that it is read with; null is what clients send for 'not given'."""
    read = {name: schema(reader) for name, reader in fields.items()}
    each = {name: found if name in required else _or_nothing(found) for name, found in read.items()}
    return {"type": "object", "properties": each, "required": list(required), "additionalProperties": False}


def _or_nothing(found: Schema) -> Schema:
    if isinstance(found.get("type"), str) and "enum" not in found:
        return found | {"type": [found["type"], "null"]}
    return {"anyOf": [found, {"type": "null"}]}
