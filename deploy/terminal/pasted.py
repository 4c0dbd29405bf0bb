"""Parts of commands that are printed to be pasted into a shell."""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path


def state_option(state: Path | str | None) -> str:
    """` --state DIR`, whatever stands in the folder's name."""
    return f" --state {shlex.quote(str(state))}"


def exports(environment: Mapping[str, str]) -> Iterator[str]:
    """Lines that give a shell these variables; each value stands in quotes, needed or not."""
    for name, given in environment.items():
        quoted = given.replace("'", "'\\''")
        yield f"export {name}='{quoted}'\n"
