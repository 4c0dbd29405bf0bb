"""Every JSON Schema that is published, by its name: `nearfield schema NAME`, docs/schemas/NAME.json."""

from deploy.report.out.shape import schema as report_schema
from deploy.schemas.outputs import OUTPUTS
from deploy.schemas.toml import schema as toml_schema
from deploy.schemas.words import DRAFT, Schema

TOML, REPORT = "toml", "report"
SCHEMAS: tuple[str, ...] = (*OUTPUTS, REPORT, TOML)
VERSION = 1
LATER = {"report-diff": 2}
"""Versions of what has changed since it was first published."""


def schema_of(name: str) -> Schema:
    """One of them, with its `$id`. Raises KeyError."""
    if name == TOML:
        return toml_schema()
    if name == REPORT:
        return report_schema()
    return {"$schema": DRAFT, "$id": f"nearfield.{name}/{LATER.get(name, VERSION)}", **OUTPUTS[name]}
