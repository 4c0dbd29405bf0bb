"""One timed piece of a trace, and its form in OTLP's JSON. Pure.

https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding: ids are hex, 64-bit numbers are strings, and
enumerations numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Value = str | int | float | bool
BEFORE: Final = {"connect": "first_byte", "weights": "prefill"}
"""Phases that a stopwatch learns of after the one that they lie before."""
ERROR: Final = 2  # of STATUS_CODE_*


class Kind(IntEnum):
    """Whose side of an exchange a span is."""

    INTERNAL = 1
    SERVER = 2
    CLIENT = 3


@dataclass(slots=True)
class Span:
    """`error` is the code of what it ended by, empty where it went well. Times are ns since 1970."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: Kind
    begin_ns: int
    end_ns: int
    values: dict[str, Value] = field(default_factory=dict)
    error: str = ""
    state: str = ""

    def as_value(self) -> dict[str, Any]:
        """As OTLP's JSON has it."""
        values = self.values | ({"error.type": self.error} if self.error else {})
        value: dict[str, Any] = {
            "traceId": self.trace_id,
            "spanId": self.span_id,
            "name": self.name,
            "kind": int(self.kind),
            "startTimeUnixNano": str(self.begin_ns),
            "endTimeUnixNano": str(self.end_ns),
            "attributes": attributes(values),
        }
        value |= {"parentSpanId": self.parent_id} if self.parent_id else {}
        value |= {"traceState": self.state} if self.state else {}
        return value | ({"status": {"code": ERROR}} if self.error else {})


def attributes(values: Mapping[str, Value]) -> list[dict[str, Any]]:
    """Names and values, each value under the name of its kind."""
    return [{"key": name, "value": _any(value)} for name, value in values.items()]


def _any(value: Value) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    return {"doubleValue": value} if isinstance(value, float) else {"stringValue": value}


def laid(phases: Mapping[str, float], begin_ns: int) -> Iterator[tuple[str, int, int]]:
    """(name, begin, end) of phases that exclude each other, in ms, one behind the other: their sum is kept."""
    names = list(phases)
    for late, other in BEFORE.items():
        if late in names and other in names:
            names.remove(late)
            names.insert(names.index(other), late)
    passed_ms = 0.0
    for name in names:
        began_ms, passed_ms = passed_ms, passed_ms + phases[name]
        yield name, begin_ns + round(began_ms * 1e6), begin_ns + round(passed_ms * 1e6)
