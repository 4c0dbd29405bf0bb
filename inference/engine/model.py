"""A model that computes steps: transformers' own class, our rows.

`SlotModel` computes a whole step in one forward pass over our slots and attention; it serves the families
whose classes keep no state but keys and values and call the attention interface with everything it needs,
each held to `generate` token for token by a test. `LoneModel` serves every other causal language model:
each row has the class' own cache and its own forward pass, so it is exact by construction, and slower in
a crowd.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from transformers import DynamicCache

from inference.engine.attend.attention import SlotAttention, SlotCache
from inference.engine.attend.layout import StepLayout
from inference.engine.choose.sample import choose_all
from inference.engine.fixed import FixedModel
from inference.engine.gpu.device import device_of
from inference.engine.linear.last_layer import LastLayer
from inference.engine.linear.short_layer import shorten
from inference.engine.steps.drafts import Drafter
from inference.engine.steps.pages import PAGE_TOKENS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedConfig, PreTrainedModel

    from inference.engine.choose.sample import Broken, Sampled, Sampler
    from inference.engine.steps.events import Segment, Step
    from inference.engine.steps.slots import SlotPlan

SLOT_FAMILIES = frozenset({
    "cohere", "cohere2", "exaone4", "gemma", "gemma2", "gemma3_text", "glm", "glm4", "gpt2",
    "gpt_bigcode", "gpt_neox", "gpt_oss", "granite", "helium", "llama", "mistral", "mixtral",
    "nemotron", "olmo", "olmo2", "olmo3", "opt", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3",
    "qwen3_moe", "smollm3", "stablelm", "starcoder2",
})  # fmt: skip
"""`model_type` of the families that share a forward pass."""


LENGTH_DEPENDENT_ROPES = frozenset({"dynamic", "longrope"})
"""Their angles follow the longest position in the pass: one row's length would change another's answer."""


class StepModel(Protocol):
    """Computes steps and keeps the rows' state between them."""

    def forward(self, step: Step) -> tuple[list[str], torch.Tensor]:
        """Compute and store the step; the ids that sample and their logits, [ids, vocabulary]."""

    def choose(self, logits: torch.Tensor, samplers: Sequence[Sampler]) -> list[Sampled | Broken]:
        """The next token of each row of the logits that `forward` gave last."""

    def store(self, slot: int, start: int, pages: tuple[int, ...]) -> None:
        """Copy what the slot holds from position `start` on to `pages`, for `forward` to copy back."""

    def release(self, slot: int, *, scrub: bool) -> None:
        """The row of this slot ended; `scrub` if what it left may not be finite."""


class SlotModel:
    """All rows of a step in one forward pass."""

    def __init__(self, model: PreTrainedModel, room: SlotPlan) -> None:
        self._model = model
        self._device = device_of(model)
        self._cache = SlotCache(room, model.config.num_hidden_layers)
        self._last = LastLayer(model)
        self._attention = SlotAttention(self._last)
        model.set_attn_implementation(self._attention.name)
        self._short = shorten(model, self._attention)

    @torch.inference_mode()
    def landed(self) -> None:
        """All weights are here, before the first pass: what is made of them is made together."""
        if self._short is not None:
            self._short.make_gains()

    def forward(self, step: Step) -> tuple[list[str], torch.Tensor]:
        """See `StepModel`."""
        layout, logits = self.compute(step)
        return layout.sampled_ids, logits.float().cpu()  # rows are sampled on the host, each by its own rules

    def choose(self, logits: torch.Tensor, samplers: Sequence[Sampler]) -> list[Sampled | Broken]:
        """See `StepModel`."""
        return choose_all(logits, samplers)

    def compute(self, step: Step) -> tuple[StepLayout, torch.Tensor]:
        """The step's logits where the model computes: [sampled, vocabulary]."""
        layout = StepLayout(step, self._device)
        self._cache.layout = self._attention.layout = layout
        for part in step:
            if part.pages:
                self._cache.restore(part.slot, part.start - len(part.pages) * PAGE_TOKENS, part.pages)
        with self._last.shortened(), torch.inference_mode():
            out = self._model(
                input_ids=layout.ids,
                position_ids=layout.positions,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=layout.sampled,
            )
        return layout, out.logits[0]

    def store(self, slot: int, start: int, pages: tuple[int, ...]) -> None:
        """See `StepModel`."""
        self._cache.keep(slot, start, pages)

    def release(self, slot: int, *, scrub: bool) -> None:
        """See `StepModel`."""
        self._cache.release(slot, scrub=scrub)


class LoneModel:
    """One forward pass and one cache of the class' own for each row.

    `one_by_one` gives each token a pass of its own: then no number depends on how a prompt was cut.
    """

    def __init__(self, model: PreTrainedModel, *, one_by_one: bool = False) -> None:
        self._model = model
        self._most = 1 if one_by_one else None
        self._device = device_of(model)
        self._caches: dict[int, Any] = {}
        self._last: dict[int, tuple[Segment, torch.Tensor]] = {}

    def forward(self, step: Step) -> tuple[list[str], torch.Tensor]:
        """See `StepModel`."""
        logits = [(part.id, self._row(part)) for part in step]
        sampled = [row for part, row in zip(step, logits, strict=True) if part.samples]
        if not sampled:
            return [], torch.empty(0, 0)
        return [order_id for order_id, _ in sampled], torch.stack([row for _, row in sampled])

    def choose(self, logits: torch.Tensor, samplers: Sequence[Sampler]) -> list[Sampled | Broken]:
        """See `StepModel`."""
        return choose_all(logits, samplers)

    def store(self, slot: int, start: int, pages: tuple[int, ...]) -> None:
        """Never asked for: the class' own cache may be of any kind, so nothing of it is kept.

        Raises:
            NotImplementedError: it was asked for.
        """
        raise NotImplementedError

    def release(self, slot: int, *, scrub: bool) -> None:  # noqa: ARG002 - the cache goes, whatever is in it
        """See `StepModel`."""
        self._caches.pop(slot, None)
        self._last.pop(slot, None)

    def _row(self, part: Segment) -> torch.Tensor:
        """The logits after one segment; computing the same one twice (after a neighbour's fault) adds nothing."""
        if part.slot not in self._last or self._last[part.slot][0] != part:
            self._last[part.slot] = (part, self._computed(part))
        return self._last[part.slot][1]

    def _computed(self, part: Segment) -> torch.Tensor:
        if part.start == 0:
            self._caches[part.slot] = DynamicCache(config=self._model.config)
        most = self._most or len(part.tokens)
        for start in range(0, len(part.tokens), most):
            with torch.inference_mode():
                out = self._model(
                    input_ids=torch.tensor([part.tokens[start : start + most]], device=self._device),
                    past_key_values=self._caches[part.slot],
                    use_cache=True,
                )
        last: torch.Tensor = out.logits[0, -1].float().cpu()
        return last


def step_model(model: PreTrainedModel, room: SlotPlan, *, deterministic: bool = False) -> StepModel:
    """The way this model's steps are computed; only models that share a pass have pages, or slots that lend."""
    if not shares_a_pass(model.config):
        return LoneModel(model, one_by_one=deterministic)
    return (FixedModel if deterministic else SlotModel)(model, room)


def drafter_of(rows: StepModel, model: PreTrainedModel, most: int) -> Drafter | None:
    """What guesses up to `most` tokens of each row, for a model whose passes take them.

    In float32 a token's logits are the same to the last bits or two whatever is beside it, and so is what is chosen. In
    bfloat16 they are not, and there an answer alone is to be what `generate` says.
    """
    takes = type(rows) is SlotModel and model.dtype is torch.float32
    return Drafter(most) if takes and most else None


def shares_a_pass(config: PreTrainedConfig) -> bool:
    """True if rows of such a model can go through one forward pass without touching each other."""
    return config.model_type in SLOT_FAMILIES and LENGTH_DEPENDENT_ROPES.isdisjoint(_rope_types(config))


def _rope_types(config: PreTrainedConfig) -> set[str]:
    ropes = getattr(config, "rope_parameters", None) or {}
    by_layer_type = [value for value in ropes.values() if isinstance(value, dict)]
    return {str(rope.get("rope_type", "default")) for rope in (by_layer_type or [ropes])}
