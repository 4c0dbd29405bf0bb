"""Request ids: nobody guesses one, and none is given twice, by any process."""

import os
from typing import Final

NUM_DRAWN: Final = 64  # at once: a call of the kernel costs as much as the randomness of twenty
_CHARS: Final = 32  # 128 bits, as hexadecimal


class Numbers:
    """One process's; drawn when the first is asked for, so what is forked before that shares none."""

    def __init__(self) -> None:
        self._drawn, self._at = b"", 0

    def next(self) -> bytes:
        """Another one."""
        if self._at == len(self._drawn):
            self._drawn, self._at = os.urandom(NUM_DRAWN * _CHARS // 2).hex().encode(), 0
        at, self._at = self._at, self._at + _CHARS
        return b"req_" + self._drawn[at : self._at]
