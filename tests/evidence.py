"""How much of the heavy evidence a run gathers: little in `make test`, all of it in `make evidence`."""

import os

IS_WHOLE = bool(os.environ.get("NEARFIELD_EVIDENCE"))


def count(small: int, whole: int) -> int:
    """A number of examples, rounds or steps."""
    return whole if IS_WHOLE else small
