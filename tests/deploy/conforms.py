"""Does a value conform to one of our JSON Schemas? The words that they are written in, and a loud no to any other."""

KNOWN = {
    "$schema", "$id", "title", "description", "default", "type", "properties", "required", "additionalProperties",
    "patternProperties", "items", "anyOf", "enum", "minimum", "exclusiveMinimum",
}  # fmt: skip
TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
    "integer": int,
    "number": (int, float),
}


def breaches(value, schema, where="$"):
    """Each place where `value` is not as `schema` says, in words."""
    assert not set(schema) - KNOWN, f"{where}: words without a meaning here: {set(schema) - KNOWN}"
    return [*_type(value, schema, where), *_choice(value, schema, where), *_inside(value, schema, where)]


def _type(value, schema, where):
    if "type" in schema:
        is_number = isinstance(value, bool) and schema["type"] in {"integer", "number"}
        if is_number or not isinstance(value, TYPES[schema["type"]]):
            yield f"{where} = {value!r} is no {schema['type']}"
        elif value < schema.get("minimum", value) if isinstance(value, int | float) else False:
            yield f"{where} = {value!r} is below {schema['minimum']}"
        elif isinstance(value, int | float) and value <= schema.get("exclusiveMinimum", value - 1):
            yield f"{where} = {value!r} is not above {schema['exclusiveMinimum']}"


def _choice(value, schema, where):
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where} = {value!r} is none of {schema['enum']}"
    if "anyOf" in schema and all(breaches(value, each, where) for each in schema["anyOf"]):
        yield f"{where} = {value!r} is none of {len(schema['anyOf'])} things"


def _inside(value, schema, where):
    if isinstance(value, list) and "items" in schema:
        for number, each in enumerate(value):
            yield from breaches(each, schema["items"], f"{where}[{number}]")
    if isinstance(value, dict):
        yield from (f"{where} lacks {name}" for name in schema.get("required", ()) if name not in value)
        for name, each in value.items():
            yield from _member(name, each, schema, f"{where}.{name}")


def _member(name, value, schema, where):
    patterns = [each for word, each in schema.get("patternProperties", {}).items() if word in name]
    known = [schema["properties"][name]] if name in schema.get("properties", {}) else patterns
    more = schema.get("additionalProperties", True)
    if not known and more is False:
        yield f"{where} is not foreseen"
    for each in known or ([more] if isinstance(more, dict) else []):
        yield from breaches(value, each, where)
