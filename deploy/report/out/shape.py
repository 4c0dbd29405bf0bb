"""Whether a value has the published shape: the few words of JSON Schema that our schema uses, and no others. Pure.

A validator from PyPI would be a dependency for one file; a test holds this one and the schema to each other.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

PLACE = Path(__file__).parent / "report.schema.json"
MAX_REPORT_BYTES = 512 * 1024 * 1024
Schema = Mapping[str, Any]
TYPES: Mapping[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
}
WORDS = frozenset(
    {"$schema", "$id", "$defs", "$ref", "title", "description", "type", "const", "enum", "minimum"}
    | {"properties", "required", "additionalProperties", "items", "anyOf", "minItems", "maxItems"}
)


class NotAReport(Exception):
    """A file is no report of this version; the message says where it is not."""


def schema() -> dict[str, Any]:
    """The published schema."""
    found: dict[str, Any] = json.loads(PLACE.read_text(encoding="utf-8"))
    return found


def read_document(path: Path) -> dict[str, Any]:
    """A measured document from a file, checked before anything is believed of it. Raises: NotAReport."""
    try:
        if path.stat().st_size > MAX_REPORT_BYTES:
            raise NotAReport(f"{path} is larger than {MAX_REPORT_BYTES} bytes")
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise NotAReport(f"{path} is no report: {error}") from error
    wrong = next(errors(value, schema()), None)
    if wrong is not None:
        raise NotAReport(f"{path} is no report of this version: {wrong}")
    document: dict[str, Any] = value
    return document


def errors(value: Any, schema: Schema) -> Iterator[str]:
    """Where the value is not as the schema says, in words."""
    yield from _errors(value, schema, schema, "the document")


def _errors(value: Any, schema: Schema, root: Schema, at: str) -> Iterator[str]:
    if "$ref" in schema:
        yield from _errors(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root, at)
        return
    if "anyOf" in schema and not any(not [*_errors(value, each, root, at)] for each in schema["anyOf"]):
        yield f"{at} is none of what it may be"
    names = schema.get("type", [])
    names = [names] if isinstance(names, str) else names
    if names and not any(TYPES[name](value) for name in names):
        yield f"{at} is not {' or '.join(names)}"
        return
    if "const" in schema and value != schema["const"]:
        yield f"{at} is {str(value)[:60]!r}, not {schema['const']!r}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{at} is {str(value)[:60]!r}, none of {schema['enum']}"
    if "minimum" in schema and TYPES["number"](value) and value < schema["minimum"]:
        yield f"{at} is below {schema['minimum']}"
    if isinstance(value, dict):
        yield from _object_errors(value, schema, root, at)
    if isinstance(value, list):
        yield from _array_errors(value, schema, root, at)


def _object_errors(value: dict[str, Any], schema: Schema, root: Schema, at: str) -> Iterator[str]:
    properties = schema.get("properties", {})
    yield from (f"{at} has no {name!r}" for name in schema.get("required", ()) if name not in value)
    others = schema.get("additionalProperties", True)
    for name, each in value.items():
        if name in properties:
            yield from _errors(each, properties[name], root, f"{at}.{name}")
        elif others is False:
            yield f"{at} has an unknown {name[:60]!r}"
        elif isinstance(others, dict):
            yield from _errors(each, others, root, f"{at}.{name}")


def _array_errors(value: list[Any], schema: Schema, root: Schema, at: str) -> Iterator[str]:
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        yield f"{at} has a wrong number of entries, {len(value)}"
    for number, each in enumerate(value):
        yield from _errors(each, schema.get("items", {}), root, f"{at}[{number}]")
