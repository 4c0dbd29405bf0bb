"""A request in a resident model: entered, counted under the model's name and ended by one error, whatever answers."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from inference.workers.resident import OutsideModel, ResidentModel, not_resident
from wire.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inference.api.visit import Visit
    from inference.workers.host import Host

M = TypeVar("M", ResidentModel, OutsideModel)


@dataclass(slots=True)
class Stay:
    """One request's way into a worker and out of it.

    Attributes:
        model: What the request calls the model; figures have the revision's own name of it.
        operation: As OpenTelemetry calls what is done (`wire.gen_ai`); empty for what is no inference.
    """

    host: Host
    visit: Visit
    revision_id: str | None
    model: str
    operation: str
    _used: tuple[int, int] | None = None

    @contextmanager
    def inside(self, kind: type[M]) -> Iterator[M]:
        """The model, which stays while this is open; of another `kind`, its engine changed since it was asked for.

        Raises:
            Refusal: 409 `not_resident`: loaded anew, it is found as what it is.
        """
        worker = self.host.find(self.revision_id, self.model)
        found = self.visit.arrive(worker, self.host.reason(worker.revision.id))
        error = "internal_error"
        try:
            if not isinstance(found, kind):
                raise not_resident(self.model)
            yield found
            error = self.visit.error
        except Refusal as refusal:
            error = refusal.code
            raise
        except asyncio.CancelledError:
            error = "client_gone"
            raise
        finally:
            worker.leave()
            self._count(worker.revision.model, error)

    def used(self, num_input: int, num_output: int) -> None:
        """The tokens that the answer's usage says; they count if the request ends well."""
        self._used = num_input, num_output

    def _count(self, model: str, error: str) -> None:
        figures, gen_ai = self.host.figures, self.host.figures.answers.gen_ai
        if self.visit.first_ms is not None:
            figures.first_token(self.visit.start, self.visit.first_ms)
        if not self.operation:
            return
        gen_ai.ended(self.operation, model, self.visit.phases.total_ms() / 1000, error)
        if self._used is not None and not error:
            gen_ai.used(self.operation, model, *self._used)
