"""Which sections the TOML has and what stands in each: the one table that reading, showing and the schema go by."""

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NamedTuple

from deploy.config.acme import AcmeEntry, OrderEntry
from deploy.config.dns import DnsEntry, PopEntry, ServerEntry
from deploy.config.entries import (
    AccessKeyEntry,
    AnycastEntry,
    EdgeEntry,
    NodeEntry,
    PlatformEntry,
    RegionEntry,
    StoreEntry,
    TracingEntry,
    WanLink,
    WebhookEntry,
)
from inference.outside.definition import EngineEntry


class Form(StrEnum):
    """How the tables of a section are written."""

    TABLE = "table"  # [section]
    NAMED = "named"  # [section.NAME]
    LIST = "list"  # [[section]]


class Shape(NamedTuple):
    """A section: its tables' dataclass, how they are written, and sections inside of them."""

    kind: type
    form: Form
    inner: Mapping[str, "Shape"] = MappingProxyType({})

    def own_fields(self) -> tuple[Field[Any], ...]:
        """The keys of one table, those of `inner` left out."""
        return tuple(each for each in fields(self.kind) if each.name not in self.inner)


_DNS = MappingProxyType({"pops": Shape(PopEntry, Form.NAMED), "servers": Shape(ServerEntry, Form.NAMED)})
_ACME = MappingProxyType({"orders": Shape(OrderEntry, Form.NAMED)})

SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        "platform": Shape(PlatformEntry, Form.TABLE),
        "access_keys": Shape(AccessKeyEntry, Form.LIST),
        "webhooks": Shape(WebhookEntry, Form.LIST),
        "stores": Shape(StoreEntry, Form.NAMED),
        "nodes": Shape(NodeEntry, Form.NAMED),
        "regions": Shape(RegionEntry, Form.NAMED),
        "edges": Shape(EdgeEntry, Form.NAMED),
        "anycast": Shape(AnycastEntry, Form.NAMED),
        "wan": Shape(WanLink, Form.NAMED),
        "tracing": Shape(TracingEntry, Form.TABLE),
        "engines": Shape(EngineEntry, Form.NAMED),
        "dns": Shape(DnsEntry, Form.TABLE, _DNS),
        "acme": Shape(AcmeEntry, Form.TABLE, _ACME),
    }
)
REQUIRED = ("platform",)


def is_required(spec: Field[Any]) -> bool:
    """Whether a table must have this key."""
    return spec.default is MISSING and spec.default_factory is MISSING


def default_of(spec: Field[Any]) -> Any:
    """What holds where the key is not written."""
    if spec.default_factory is not MISSING:
        return spec.default_factory()
    return spec.default
