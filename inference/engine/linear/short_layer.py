"""A Llama's layers in fewer operations than its class makes.

Between two products the weights of a whole layer have gone through the caches, so whatever comes next finds neither
itself nor its numbers there: an operation on a row of 1,024 numbers is 2 us of work, and takes 10. transformers' class
makes 38 of them a layer, those that only look at tensors left out, and this 28: queries and keys are turned together, a
norm is four operations for eight, and what nobody else has is added to and multiplied in its place, which chunks of
prompts gain by as well: their tensors have megabytes. A step of the 244 M Llama, both ways in turns in one process,
least of 40, one thread, others at work: 66.2 and 63.4 ms of processor time at one row, 116.8 and 113.8 at 16; of two
threads 97.0 and 91.0, 159.6 and 155.5. Norms alone, in microseconds on one thread, each after a product of 16 MB, and
on all of 1,024 rows at once:

                         one row    16 rows    1,024 rows
    norm of the class        66         80         387  (`rms_norm`, which is the same: 57, 72)
    norm here                29         35         260

Packed or in 8 bits queries, keys and values are one product, whose output lies as they are turned and stored, and so in
8 bits are the two of the gate; what comes back to the layer's width is scaled and added at once.

Only models of classes that are known to be of this kind are taken, in float32: narrower types round on their way
through a norm, and a device has kernels of its own.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import silu
from transformers.modeling_outputs import BaseModelOutputWithPast

from inference.engine.attend.layout import CPU
from inference.engine.linear.joined import product_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from transformers import PreTrainedModel

    from inference.engine.attend.attention import SlotAttention, SlotCache

WINDOWS: Mapping[str, Callable[[Any], int | None]] = {
    "LlamaModel": lambda _: None,
    "MistralModel": lambda attention: attention.config.sliding_window,
    "Qwen2Model": lambda attention: attention.sliding_window,
}
"""The classes, by name since importing one takes a start's time, and the window of a layer's attention. In nothing but
windows and biases do they differ."""
HOME = "transformers.models."
SILUS = {"SiLU", "SiLUActivation"}

Embeddings = tuple[torch.Tensor, torch.Tensor]


class ShortModel:
    """What stands for the `forward` of the model below the head."""

    def __init__(self, model: Any, norms: Sequence[Norm]) -> None:
        self._model, self._norms = model, norms

    def make_gains(self) -> None:
        """Make what the norms multiply by, for all of them at once: the weights are here.

        One by one in a first pass, after products that have filled the caches, it is 50 us each (measured).
        """
        weights, scales = [norm.weight for norm in self._norms], [norm.scale for norm in self._norms]
        made = torch._foreach_mul(weights, scales)  # noqa: SLF001 - one call, which has no other name
        for norm, gains in zip(self._norms, made, strict=True):
            norm.gains = gains

    def forward(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, past_key_values: SlotCache, **_: Any
    ) -> BaseModelOutputWithPast:
        """[1, tokens] ids at these positions; the last hidden states, [1, tokens, width]."""
        hidden = self._model.embed_tokens(input_ids)
        turns = _turns(*self._model.rotary_emb(hidden, position_ids=position_ids))
        for layer in self._model.layers:
            hidden = layer(hidden, turns, past_key_values)
        return BaseModelOutputWithPast(last_hidden_state=self._model.norm(hidden))


class ShortLayer:
    """What stands for a decoder layer's `forward`."""

    def __init__(self, layer: Any, attention: SlotAttention, window: int | None) -> None:
        self._own, self._mlp = layer.self_attn, layer.mlp
        self._attention, self._window = attention, window
        self._head_size: int = layer.self_attn.head_dim
        self.norms = self._before, self._between = (
            Norm(layer.input_layernorm),
            Norm(layer.post_attention_layernorm),
        )
        own, mlp = self._own, self._mlp
        self._asked = product_of(own.q_proj, own.k_proj, own.v_proj)
        self._gated = product_of(mlp.gate_proj, mlp.up_proj)
        self._out, self._down = _adding(own.o_proj), _adding(mlp.down_proj)

    def forward(self, hidden: torch.Tensor, turns: Embeddings, cache: SlotCache) -> torch.Tensor:
        """[1, tokens, width] to the same; keys and values go to their slots."""
        attended = self._out(self._attended(self._before.of(hidden), turns, cache), hidden)
        return self._down(self._through_gates(self._between.of(attended)), attended)

    def _through_gates(self, given: torch.Tensor) -> torch.Tensor:
        """[1, tokens, inner width]."""
        if self._gated is None:
            gates: torch.Tensor = silu(self._mlp.gate_proj.forward(given), inplace=True)
            return gates.mul_(self._mlp.up_proj.forward(given))
        gates, ups = self._gated.whole(given).chunk(2, -1)
        return silu(gates, inplace=True) * ups  # what lies in one piece is rotated as it lies

    def _heads(self, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[1, tokens, heads, head size]: queries and keys, and values."""
        own, shape = self._own, (*given.shape[:2], -1, self._head_size)
        if self._asked is None:  # float32 weights are packed later
            self._asked = product_of(own.q_proj, own.k_proj, own.v_proj)
        if self._asked is None:
            both = torch.cat((own.q_proj.forward(given), own.k_proj.forward(given)), -1)
            return both.view(shape), own.v_proj.forward(given).view(shape)
        heads = self._asked.whole(given).view(shape)
        num_values = own.v_proj.out_features // self._head_size
        return heads[:, :, :-num_values], heads[:, :, -num_values:]

    def _attended(self, given: torch.Tensor, turns: Embeddings, cache: SlotCache) -> torch.Tensor:
        """[1, tokens, heads x head size]."""
        own = self._own
        both, values = self._heads(given)
        turned = _turned(both, *turns)
        num_heads = own.q_proj.out_features // self._head_size
        keys, values = cache.update(
            turned[:, :, num_heads:].transpose(1, 2), values.transpose(1, 2), own.layer_idx
        )
        queries = turned[:, :, :num_heads].transpose(1, 2)
        found, _ = self._attention.attend(
            own, queries, keys, values, None, scaling=own.scaling, sliding_window=self._window
        )
        return found.flatten(2)


class Norm:
    """A root-mean-square norm, of length and not of squares: one pass over the rows for three."""

    def __init__(self, norm: Any) -> None:
        width: int = norm.weight.shape[-1]
        self._norm, self.scale = norm, width**0.5
        self._least = _number((width * norm.variance_epsilon) ** 0.5)
        self.gains: torch.Tensor | None = None
        """The weight as it multiplies rows of length one; made when the weight is here, which it is not at a start."""

    @property
    def weight(self) -> torch.Tensor:
        """As the model has it, [width]."""
        found: torch.Tensor = self._norm.weight
        return found

    def of(self, rows: torch.Tensor) -> torch.Tensor:
        """[1, tokens, width] to the same; what the class' epsilon is beside a length is the least one."""
        if self.gains is None:
            self.gains = self.weight * self.scale
        lengths = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
        return torch.div(rows, lengths.hypot_(self._least)).mul_(self.gains)


@lru_cache(maxsize=64)
def _number(value: float) -> torch.Tensor:
    """One for all norms: to make it takes 30 us each in a first pass."""
    return torch.tensor(value)


def _adding(layer: Any) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """What gives the layer's output for the first, added to the second: by the way where it is in 8 bits."""
    product = product_of(layer)
    return (lambda given, rest: layer.forward(given).add_(rest)) if product is None else product.whole


def shorten(model: PreTrainedModel, attention: SlotAttention) -> ShortModel | None:
    """Have the layers of `model` computed this way; None where they are of another kind."""
    base: Any = model.base_model
    if not _is_known(base):
        return None
    window = WINDOWS[type(base).__name__]
    shorts = [ShortLayer(layer, attention, window(layer.self_attn)) for layer in base.layers]
    for layer, short in zip(base.layers, shorts, strict=True):
        layer.forward = short.forward
    whole = ShortModel(base, [norm for short in shorts for norm in short.norms])
    base.forward = whole.forward
    return whole


def _is_known(base: Any) -> bool:
    kind = type(base)
    return (
        kind.__name__ in WINDOWS
        and kind.__module__.startswith(HOME)
        and type(base.layers[0].mlp.act_fn).__name__ in SILUS
        and all(weight.dtype is torch.float32 and weight.device == CPU for weight in base.parameters())
    )


def _turns(cosines: torch.Tensor, sines: torch.Tensor) -> Embeddings:
    """Both as [1, tokens, 1, head size], the first half of the sines negative."""
    first, second = sines.chunk(2, -1)
    return cosines[:, :, None], torch.cat((-first, second), -1)[:, :, None]


def _turned(heads: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """[1, tokens, heads, head size] turned, in its place."""
    swapped = heads.roll(heads.shape[-1] // 2, -1)
    return heads.mul_(cosines).addcmul_(swapped, sines)
