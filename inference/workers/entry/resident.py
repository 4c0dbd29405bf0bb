"""A model that answers, as requests see it: on our own engine, or behind the door of an external one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from inference.api.answer.sequences import ModelLimits
    from inference.api.modeltext import ModelText
    from inference.outside.door import Door
    from inference.workers.engines.calls import EngineCalls
    from weights_cache.model.revision import Revision


@dataclass(frozen=True, slots=True)
class ResidentModel:
    """What a request uses of a worker whose engine is ours."""

    revision: Revision
    text: ModelText
    limits: ModelLimits
    calls: EngineCalls


@dataclass(frozen=True, slots=True)
class OutsideModel:
    """What a request uses of a worker whose engine is an external one."""

    revision: Revision
    text: ModelText
    limits: ModelLimits
    door: Door


Resident = ResidentModel | OutsideModel


def not_resident(model: str) -> Refusal:
    """What the gateway hears when it is to load the revision (again) first."""
    message = f"No worker of this node holds {model} now. Load it and send the request again."
    return Refusal(409, "not_resident", message, "server_error", retry_after_s=1)
