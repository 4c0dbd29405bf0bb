"""Durations as people write them: 90s, 15m, 12h, 30d. Pure."""

from collections.abc import Mapping
from types import MappingProxyType

import typer

UNITS_S: Mapping[str, int] = MappingProxyType({"s": 1, "m": 60, "h": 3600, "d": 86_400})


def seconds(text: str) -> int:
    """A duration in seconds. Raises typer.BadParameter."""
    number, unit = text[:-1], text[-1:]
    if unit not in UNITS_S or not number.isascii() or not number.isdigit() or len(number) > 9:
        raise typer.BadParameter(f"{text!r} is no duration; write 90s, 15m, 12h or 30d")
    return int(number) * UNITS_S[unit]
