"""What all listeners of an edge share."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from edge.admission.quota import Quotas
    from edge.admission.room import Room
    from edge.crew.siblings import Siblings
    from edge.figures import EdgeFigures
    from edge.receipts.kept import Receipts
    from edge.relay.budget import Budgets
    from edge.relay.patience import Patiences


class Bounds(NamedTuple):
    """Patience, repeats, what is held, what keys may use, other processes, figures, and the last requests."""

    patiences: Patiences
    budgets: Budgets
    room: Room
    quotas: Quotas
    siblings: Siblings
    figures: EdgeFigures
    receipts: Receipts
