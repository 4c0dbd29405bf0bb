"""One thing looked at by `nearfield doctor`: is it well, what was seen, and what to do if not."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """`fix` is a sentence or a command; it is shown where the thing is not well."""

    name: str
    well: bool
    seen: str
    fix: str = ""
