"""Request ids: nobody guesses one, and none is given twice, by any process."""

import os
from typing import Final

NUM_DRAWN: Final = 64  # at once: a call of the kernel costs as much as the randomness of twenty
_BYTES: Final = 16  # said as hexadecimal


class Numbers:
    """One process's; drawn when the first is asked for, so what is forked before that shares none."""

    def __init__(self) -> None:
        self._drawn: list[bytes] = []

    def next(self) -> bytes:
        """Another one."""
        if not self._drawn:
            self._draw()
        return self._drawn.pop()

    def _draw(self) -> None:
        drawn = os.urandom(NUM_DRAWN * _BYTES).hex(" ", _BYTES)
        self._drawn = f" {drawn}".replace(" ", " req_").encode().split()  # no step of Python for each
