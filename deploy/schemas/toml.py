"""The JSON Schema of `nearfield.toml`, made from the entries that it is read into. Pure."""

import inspect
from collections.abc import Mapping
from dataclasses import Field
from types import MappingProxyType
from typing import Any

from deploy.config.convert import PHASES, type_name
from deploy.config.shape import REQUIRED, SHAPES, Form, Shape, default_of, is_required
from deploy.schemas.words import DRAFT, Schema

_SECONDS: Schema = {"type": "number", "exclusiveMinimum": 0}
_PHASES: Schema = {
    "type": "object",
    "properties": dict.fromkeys(PHASES, _SECONDS),
    "additionalProperties": False,
}
TYPES: Mapping[str, Schema] = MappingProxyType(
    {
        "str": {"type": "string"},
        "Path": {
            "type": "string",
            "description": "a path; relative ones are taken from the file's own folder",
        },
        "bool": {"type": "boolean"},
        "int": {"type": "integer", "minimum": 0},
        "float": {"type": "number", "minimum": 0},
        "tuple": {"type": "array", "items": {"type": "string"}},
        "Mapping": {"type": "object", "additionalProperties": {"type": "string"}},
        "PatienceTable": {
            "type": "object",
            "properties": dict.fromkeys(PHASES, _SECONDS),
            "patternProperties": {"/": _PHASES},
            "additionalProperties": False,
        },
    }
)
"""By the same names as the converters: a field whose type has no converter has no schema either."""


def schema() -> Schema:
    """Of the whole file."""
    return {
        "$schema": DRAFT,
        "$id": "nearfield.toml/1",
        "title": "nearfield.toml",
        "type": "object",
        "properties": {name: _section(shape) for name, shape in SHAPES.items()},
        "required": list(REQUIRED),
        "additionalProperties": False,
    }


def _section(shape: Shape) -> Schema:
    table = _table(shape)
    if shape.form is Form.LIST:
        return {"type": "array", "items": table}
    return table if shape.form is Form.TABLE else {"type": "object", "additionalProperties": table}


def _table(shape: Shape) -> Schema:
    own = shape.own_fields()
    inner = {name: _section(each) for name, each in shape.inner.items()}
    return {
        "type": "object",
        "description": inspect.getdoc(shape.kind) or "",
        "properties": {spec.name: _field(spec) for spec in own} | inner,
        "required": [spec.name for spec in own if is_required(spec)],
        "additionalProperties": False,
    }


def _field(spec: Field[Any]) -> Schema:
    found = dict(TYPES[type_name(str(spec.type))])
    default = None if is_required(spec) else default_of(spec)
    return found | {"default": default} if isinstance(default, bool | int | float | str) else found
