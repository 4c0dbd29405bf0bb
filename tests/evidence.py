"""How much of the heavy evidence a run gathers: little in `make test`, all of it in `make evidence`.

`NEARFIELD_EVIDENCE=0.01` is the whole of it with a hundredth of each count: it shows in minutes that all of it runs.
"""

import os

SHARE = float(os.environ.get("NEARFIELD_EVIDENCE") or 0)
IS_WHOLE = SHARE > 0
"""Every family, operation and case, and not a choice of them."""


def count(small: int, whole: int) -> int:
    """A number of examples, rounds or steps; or of what is left out between two of them, where `whole` is less."""
    return round(small + (whole - small) * SHARE)
