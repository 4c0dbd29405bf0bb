"""A mold: all of an engine's start that needs no byte of its weights, made once and inherited by those forked later.

Two thirds of what a start takes when the weights are in the host's memory already goes into making the model: the
layers of transformers' class, a name for each tensor, ties and buffers, and some 2,000 pages of the shell that a child
copies when it first writes to them. None of it depends on what the weights are. So the model is made of views of
addresses at which nothing lies (`weights_cache.memory.addresses`), and each child lays the weights there.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from inference.devices import CPU
from inference.engine.attach.filling import placed
from inference.engine.attach.weights import made_ahead
from inference.engine.classes import class_of, config_of
from inference.engine.linear.packing import pack_products
from inference.engine.linear.products import fit_onednn
from inference.engine.model import shares_a_pass, step_model
from inference.engine.steps.slots import plan_room, plan_slots
from inference.engine.threads import fit_each_pass
from inference.spec import UNLIKE
from weights_cache.memory.addresses import Addresses
from weights_cache.model.revision import Revision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

    from inference.engine.attach.weights import Made
    from inference.engine.linear.packing import Packing, Piece
    from inference.engine.model import StepModel
    from inference.engine.steps.slots import SlotPlan
    from inference.spec import EngineSpec
    from weights_cache.model.facts import ModelFacts


@dataclass(frozen=True, slots=True)
class Steps:
    """What computes the steps of a model on a CPU, and the room that it has."""

    model: StepModel
    room: SlotPlan

    @classmethod
    def of(cls, model: PreTrainedModel, spec: EngineSpec, revision: Revision) -> Steps:
        """As a spec wants them."""
        plan = plan_room if shares_a_pass(model.config) else plan_slots
        room = plan(
            max_slots=spec.max_slots,
            max_len=most_tokens(spec, revision.facts),
            kv_bytes_per_token=revision.facts.kv_bytes_per_token,
            budget_bytes=spec.kv_budget_bytes,
        )
        return cls(step_model(model, room, deterministic=spec.deterministic), room)


def most_tokens(spec: EngineSpec, facts: ModelFacts) -> int:
    """Tokens of prompt and answer together."""
    return min(spec.max_len, facts.max_len) if spec.max_len else facts.max_len


class Mold:
    """What a start makes first. `made` is the model, where it was made before there was anything to fill it with."""

    def __init__(self, spec: EngineSpec) -> None:
        """Raises what reading a spec's parts raises: ConfigRefused, OSError."""
        self.spec = spec
        self.revision = Revision.of_checked(spec.revision)
        self.config = config_of(spec.config)
        self.model_class = class_of(self.config, self.revision.facts.kind)
        self.addresses = Addresses(self.revision, spec.mapped_files)
        self.made: Made | None = None
        self.packing: Packing | None = None
        self.steps: Steps | None = None

    @classmethod
    def cast(cls, spec: EngineSpec) -> Mold | None:
        """With the model in it; None for one whose making looks at weights, copies them, or needs a device."""
        if spec.device != CPU or spec.quantize is not None:
            return None
        mold = cls(spec)
        mold.made = made_ahead(
            mold.revision, mold.addresses, mold.model_class, mold.config, dtype=spec.dtype, fill=placed
        )
        if mold.made is None:
            return None
        mold.packing = fit(mold.made.model, spec)
        if mold.revision.facts.kind == "generate":
            mold.steps = Steps.of(mold.made.model, spec, mold.revision)
        return mold

    def close(self) -> None:
        """Take the model apart: its parts hold each other, and no collector looks at what children share."""
        for module in [*self.made.model.modules()] if self.made else []:
            module.__dict__.clear()

    def fits(self, spec: EngineSpec) -> bool:
        """Whether an engine of the same revision with this spec may be made by it."""
        names = (each.name for each in fields(spec) if each.name not in UNLIKE)
        return all(getattr(self.spec, name) == getattr(spec, name) for name in names)


def fit(model: PreTrainedModel, spec: EngineSpec, pieces: Sequence[Piece] = ()) -> Packing | None:
    """Have a model's passes do what is fastest on this host's processors; the copies that are to be made of it."""
    fit_onednn(model)
    fit_each_pass(model, spec.num_threads, measured=not spec.deterministic)
    return pack_products(model, spec.packed_bytes, pieces)
