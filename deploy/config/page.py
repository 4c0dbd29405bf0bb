"""Every key of nearfield.toml as a page, docs/reference/config.md, from the entries themselves."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from deploy.schemas.toml import schema

HEAD = """# nearfield.toml

One file serves every role of a fleet. This page is made from the code (`python -m deploy.reference`); a test
holds them equal. An unknown key is an error with a suggestion; `nearfield config check` reads the file as
every role would, and `nearfield config show --origin` says what holds and in which line it stands. Editors
take [the JSON Schema](../schemas/toml.json). Paths are taken from the file's own folder.
"""
NAMED = ("stores", "nodes", "regions", "edges", "anycast", "wan", "engines")


def page() -> str:
    """The whole page."""
    return "\n".join((HEAD, *_sections(schema()["properties"])))


def _sections(tables: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for name, table in tables.items():
        title, entry = _entry(f"{above}{name}", table)
        if entry.get("properties"):
            yield _section(title, entry)
            inner = {key: each for key, each in entry["properties"].items() if _is_table(each)}
            yield from _sections(inner, f"{title.strip('[]')}.")


def _entry(name: str, table: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """How the section is written, and the schema of one of it."""
    if table.get("type") == "array":
        return f"[[{name}]]", table["items"]
    inner = table.get("additionalProperties")
    return (f"[{name}.NAME]", inner) if isinstance(inner, dict) else (f"[{name}]", table)


def _is_table(schema: Mapping[str, Any]) -> bool:
    _, entry = _entry("", schema)
    return bool(entry.get("properties"))


def _section(title: str, entry: Mapping[str, Any]) -> str:
    about = inspect.cleandoc(entry.get("description", ""))
    rows = "\n".join(
        f"| `{key}` | {_kind(each)} | {_default(key, each, entry)} |"
        for key, each in entry["properties"].items()
        if not _is_table(each)
    )
    table = f"\n| key | kind | default |\n| --- | --- | --- |\n{rows}\n" if rows else ""
    return f"## {title}\n\n{about}\n{table}"


def _kind(schema: Mapping[str, Any]) -> str:
    if "a path" in schema.get("description", ""):
        return "path"
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_kind(schema['items'])}"
    inner = schema.get("additionalProperties")
    return f"table of {_kind(inner)}" if isinstance(inner, dict) else str(kind)


def _default(key: str, schema: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    if key in entry.get("required", ()):
        return "required"
    value = schema.get("default", "")
    return f"`{str(value).lower() if isinstance(value, bool) else value}`" if value not in {"", None} else ""
