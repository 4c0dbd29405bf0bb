"""A request in a resident model: entered, counted under the model's name and ended by one error, whatever answers."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from inference.api.stay.told import tell
from inference.outside.definition import OWN
from inference.usage.entry import FINISHED, What, Who
from inference.usage.meter import NS_PER_US, Account
from inference.workers.entry.resident import OutsideModel, ResidentModel, not_resident
from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from inference.api.stay.visit import Visit
    from inference.usage.entry import Counts, Entry
    from inference.workers.host import Host
    from inference.workers.worker import Worker

M = TypeVar("M", ResidentModel, OutsideModel)


@dataclass(slots=True)
class Stay:
    """One request's way into a worker and out of it.

    Attributes:
        model: What the request calls the model; figures have the revision's own name of it.
        operation: As OpenTelemetry calls what is done (`wire.figures.gen_ai`); empty for what is no inference.
    """

    host: Host
    visit: Visit
    revision_id: str | None
    model: str
    operation: str
    _entry: Entry | None = None
    _worker: Worker | None = None
    _counts: Counts | None = None

    @contextmanager
    def inside(self, kind: type[M]) -> Iterator[M]:
        """The model, which stays while this is open; of another `kind`, its engine changed since it was asked for.

        Raises:
            Refusal: 409 `not_resident`: loaded anew, it is found as what it is.
        """
        if self.operation:
            self.host.usage.check()
        worker = self._worker = self.host.find(self.revision_id, self.model)
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
            if self._entry is not None:
                self._entry.ended(error)
            worker.leave()
            self._count(worker.revision.model, error)

    @property
    def _name(self) -> str:
        return self.model if self._worker is None else self._worker.revision.model

    def entry(self, num_prompt: int) -> Entry:
        """What is written down of this request; to be made before its orders go to the engine."""
        if self._worker is None:
            raise RuntimeError("a request is written down inside its worker only")
        revision = self._worker.revision
        visit = self.visit
        who = Who(visit.request_id, visit.tenant, visit.key, visit.attempt)
        what = What(revision.model, revision.id, self.operation, revision.spec.engine or OWN)
        self._entry = self.host.usage.entry(who, what, num_prompt)
        return self._entry

    @contextmanager
    def passed_on(self, counts: Callable[[], Counts]) -> Iterator[None]:
        """A request is at an external engine while this is open: its wall time there is what it cost.

        `counts` are the tokens that the engine has said by then.
        """
        entry, usage = self.entry(0), self.host.usage
        entry.counts = counts
        order_id, began_ns = usage.outside(entry), time.perf_counter_ns()
        try:
            yield
        finally:
            us = (time.perf_counter_ns() - began_ns) // NS_PER_US
            entry.cost(order_id, Account(us=us))

    def used(self, counts: Counts, outcome: str = FINISHED) -> None:
        """The tokens that the answer's usage says, written down; to be told before its last byte goes out."""
        self._counts = counts
        if self._entry is not None:
            self._entry.answered(outcome, counts)
        if self.operation:
            self.host.figures.answers.gen_ai.used(
                self.operation, self._name, counts.prompt, counts.completion
            )

    def _count(self, model: str, error: str) -> None:
        figures, gen_ai = self.host.figures, self.host.figures.answers.gen_ai
        if self.visit.first_ms is not None:
            figures.first_token(self.visit.start, self.visit.first_ms)
        if not self.operation:
            return
        if self.visit.trace is not None:
            tell(self.visit, self.visit.trace, self.operation, model, self._counts, error)
        gen_ai.ended(self.operation, model, self.visit.phases.total_ms() / 1000, error)
