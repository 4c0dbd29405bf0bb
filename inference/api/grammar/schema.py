"""A JSON schema as llguidance can follow it: without what asks for nothing, names of properties spelled out.

It refuses what it does not hold an answer to, keywords that hold nothing among them, and real clients send those:
pydantic writes `format: path`, zod `propertyNames: {type: string}` with each record.
"""

from __future__ import annotations

from typing import Any

HELD_FORMATS = frozenset(
    ("date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "unknown", "uri", "uuid")
)
"""Formats that answers are held to. Any other says only what a text is for (JSON Schema 2020-12, validation, 7.2.1)."""
_BY_NAME = frozenset(("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"))
_SCHEMAS = frozenset(
    (
        *(
            "additionalItems",
            "additionalProperties",
            "allOf",
            "anyOf",
            "contains",
            "else",
            "if",
            "items",
            "not",
        ),
        *("oneOf", "prefixItems", "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties"),
    )
)
_ANY_NAME: tuple[Any, ...] = ({}, {"type": "string"})


def followable(schema: Any) -> Any:
    """The same schema (or list of them) for llguidance; nothing that was given is changed."""
    if isinstance(schema, list):
        return [followable(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return _spelled({key: _inside(key, value) for key, value in schema.items() if not _is_idle(key, value)})


def _inside(keyword: str, value: Any) -> Any:
    """Values of other keywords (`const`, `enum`, `default`) are data, whatever they look like."""
    if keyword in _BY_NAME and isinstance(value, dict):
        return {name: followable(one) for name, one in value.items()}
    return followable(value) if keyword in _SCHEMAS else value


def _is_idle(keyword: str, value: Any) -> bool:
    if keyword == "format":
        return isinstance(value, str) and value not in HELD_FORMATS
    return (keyword == "uniqueItems" and value is False) or (
        keyword == "propertyNames" and value in _ANY_NAME
    )


def _spelled(schema: dict[str, Any]) -> dict[str, Any]:
    """`propertyNames` with an `enum` as those properties and no others."""
    names, known = schema.get("propertyNames"), schema.get("properties", {})
    if not isinstance(names, dict) or not isinstance(known, dict) or "patternProperties" in schema:
        return schema
    words = names.get("enum")
    if not isinstance(words, list) or names.keys() - {"enum", "type", "title", "description"}:
        return schema
    other = schema.get("additionalProperties", True)
    spelled = {word: known.get(word, other) for word in words if isinstance(word, str)}
    kept = {word: one for word, one in spelled.items() if one is not False}
    rest = {key: value for key, value in schema.items() if key != "propertyNames"}
    return rest | {"properties": kept, "additionalProperties": False}
