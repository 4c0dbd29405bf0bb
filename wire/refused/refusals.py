"""Requests that were refused, in the log and counted: by id and code, never by what was asked, and at a bounded pace.

What a refusal tells its client may quote the request, so only its code, its status and the field's name are said here.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Final

from wire.refused.sparing import Sparing

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

    from wire.figures.metrics import Counter
    from wire.refused.refusal import Refusal

_FIELD: Final = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}")


class Refusals:
    """What one role says of those that it refused."""

    def __init__(
        self, log: logging.Logger, counter: Counter, now: Callable[[], float] = time.monotonic
    ) -> None:
        """`counter` has the labels code and status."""
        self._log, self._counter, self._sparing = log, counter, Sparing(now)

    def note(self, refusal: Refusal, request_id: str, what: str, model: str = "") -> None:
        """`what` was refused: a path of ours, or a region that was asked."""
        self._counter.add(1, refusal.code, str(refusal.status))
        if (silent := self._sparing.num_silent()) is None:
            return
        field = refusal.param if refusal.param and _FIELD.fullmatch(refusal.param) else ""
        self._log.info(
            "refused %s: %d %s%s%s",
            *(what, refusal.status, refusal.code, f" ({field})" if field else ""),
            f"; {silent} more before it were not said" if silent else "",
            extra={"request_id": request_id, **({"model": model} if model else {})},
        )
