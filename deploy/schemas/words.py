"""The few words of JSON Schema that ours are written in. Pure."""

from collections.abc import Mapping
from typing import Any

DRAFT = "https://json-schema.org/draft/2020-12/schema"
Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
COUNT: Schema = {"type": "integer", "minimum": 0}
FLAG: Schema = {"type": "boolean"}
ANY: Schema = {}


def table(required: Mapping[str, Schema], **optional: Schema) -> Schema:
    """An object with these keys and no others."""
    return {
        "type": "object",
        "properties": dict(required) | optional,
        "required": list(required),
        "additionalProperties": False,
    }


def grows(required: Mapping[str, Schema], **optional: Schema) -> Schema:
    """An object that has these keys; what else it has may grow without a new version."""
    return table(required, **optional) | {"additionalProperties": True}


def by_name(each: Schema) -> Schema:
    """An object whose keys are names of the user's."""
    return {"type": "object", "additionalProperties": each}


def several(each: Schema) -> Schema:
    """A list."""
    return {"type": "array", "items": each}


def or_null(each: Schema) -> Schema:
    """It, or null where it is not known."""
    return {"anyOf": [each, {"type": "null"}]}


def one_of(*values: str) -> Schema:
    """One of these words."""
    return {"enum": list(values)}
