"""An answer of a resident model, of whatever kind: it enters its worker, takes its turn, and leaves."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inference.api.reply import Reply
from inference.api.stay.entered import Stay
from inference.workers.entry.resident import ResidentModel
from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inference.api.grammar.trial import GrammarChild
    from inference.api.stay.visit import Visit
    from inference.api.text.template import TemplateChild
    from inference.workers.entry.entrance import Inside
    from inference.workers.host import Host

USES = {
    "generate": "generates text and makes no embeddings; use /v1/chat/completions or /v1/completions",
    "embed": "makes embeddings and no text; use /v1/embeddings",
    "rerank": "scores documents for a query and makes neither text nor embeddings; use /v1/rerank",
}
"""What a model of each kind does, for whom it cannot serve."""
JSON_HEADERS = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class Children:
    """The processes that run what requests and models bring along."""

    templates: TemplateChild
    grammars: GrammarChild


class ModelReply(Reply):
    """An answer of a resident model: enters its worker, and leaves it whatever happens."""

    kinds = frozenset({"generate"})
    """The kinds of model that answer so."""
    operation = "chat"
    """As OpenTelemetry calls it (`wire.figures.gen_ai`); empty for what is no inference."""

    def __init__(self, host: Host, visit: Visit, revision_id: str | None, model: str) -> None:
        super().__init__()
        self._host, self._visit, self._model = host, visit, model
        self._stay = Stay(host, visit, revision_id, model, self.operation)

    def refusal_headers(self) -> dict[str, str]:
        """See `Reply`."""
        return {"x-request-id": self._visit.request_id}

    def refused(self, refusal: Refusal) -> None:
        """See `Reply`."""
        self._host.figures.refusals.note(
            refusal, self._visit.request_id, self.operation or "a count", self._model
        )

    def left(self) -> None:
        """See `Reply`."""
        self._host.figures.client_gone(stream=self._streams)

    @property
    def _streams(self) -> bool:
        """Whether the answer comes in events."""
        return False

    @contextmanager
    def _resident(self) -> Iterator[ResidentModel]:
        with self._stay.inside(ResidentModel) as model:
            if model.revision.facts.kind not in self.kinds:
                raise _wrong_kind(model)
            yield model

    def _turn(self, model: ResidentModel, size: int, priority: int = 0) -> Inside:
        """Its tenant's turn at the engine, for so many sequences; inside while it is open."""
        return model.calls.entrance.inside(self._visit.tenant, self._visit.weight, priority, size)


def _wrong_kind(model: ResidentModel) -> Refusal:
    message = f"{model.revision.model} {USES[model.revision.facts.kind]}."
    return Refusal(400, "wrong_model_kind", message, param="model")
