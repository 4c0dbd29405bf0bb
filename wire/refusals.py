"""Requests that were refused, in the log and counted: by id and code, never by what was asked, and at a bounded pace.

What a refusal tells its client may quote the request, so only its code, its status and the field's name are said here.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

    from wire.metrics import Counter
    from wire.refusal import Refusal

PER_S: Final = 10.0  # lines; whoever is refused more often than that is one client in a loop, or an attack
BURST: Final = 100.0
_FIELD: Final = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}")


class Refusals:
    """What one role says of those that it refused."""

    def __init__(
        self, log: logging.Logger, counter: Counter, now: Callable[[], float] = time.monotonic
    ) -> None:
        """`counter` has the labels code and status."""
        self._log, self._counter, self._now = log, counter, now
        self._left, self._at, self._num_silent = BURST, now(), 0

    def note(self, refusal: Refusal, request_id: str, what: str, model: str = "") -> None:
        """`what` was refused: a path of ours, or a region that was asked."""
        self._counter.add(1, refusal.code, str(refusal.status))
        if not self._may_say():
            self._num_silent += 1
            return
        field = refusal.param if refusal.param and _FIELD.fullmatch(refusal.param) else ""
        silent, self._num_silent = self._num_silent, 0
        self._log.info(
            "refused %s: %d %s%s%s",
            *(what, refusal.status, refusal.code, f" ({field})" if field else ""),
            f"; {silent} more before it were not said" if silent else "",
            extra={"request_id": request_id, **({"model": model} if model else {})},
        )

    def _may_say(self) -> bool:
        now = self._now()
        self._left = min(BURST, self._left + (now - self._at) * PER_S)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
