"""How long an edge waits, phase by phase; one value for the edge, others for a model or a path that needs it.

A gateway that works on an answer says so every PULSE_S (`regions/gateway/pulse.py`): `102 Processing` before the
answer's head, a comment inside a stream. So silence is short even where answers take minutes (a cold start, a long
prompt), and whoever is silent for longer is not there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from regions.ask import Ask

CONNECT_S: Final = 2.0  # several round trips around the Earth, and one lost SYN
FIRST_BYTE_S: Final = 10.0  # silence before an answer, or before a stream's first event: five pulses missed
BETWEEN_S: Final = 15.0  # silence inside an answer; longer, because nobody can take it over
TOTAL_S: Final = 600.0  # as the openai client's own


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds for one request, phase by phase; `first_byte_s` and `between_s` count silence, `total_s` everything."""

    connect_s: float = CONNECT_S
    first_byte_s: float = FIRST_BYTE_S
    between_s: float = BETWEEN_S
    total_s: float = TOTAL_S


@dataclass(frozen=True, slots=True)
class Patiences:
    """The edge's own, and that of each model (`org/name`) or path (`/v1/...`) that has another."""

    usual: Patience = Patience()
    special: Mapping[str, Patience] = field(default_factory=lambda: MappingProxyType({}))

    def of(self, ask: Ask, path: str) -> Patience:
        """A model's goes before a path's."""
        if not self.special:
            return self.usual
        return self.special.get(ask.model) or self.special.get(path) or self.usual
