"""Request ids: nobody guesses one, and none is given twice, by any process."""

import os
from typing import Final

NUM_DRAWN: Final = 64  # at once: a call of the kernel costs as much as the randomness of twenty
_CHARS: Final = 32  # 128 bits, as hexadecimal


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
        drawn = os.urandom(NUM_DRAWN * _CHARS // 2).hex().encode()
        self._drawn = [b"req_" + drawn[at : at + _CHARS] for at in range(0, len(drawn), _CHARS)]
