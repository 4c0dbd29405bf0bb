"""`quantize = "int8"`: linear layers in 8-bit integers on a CPU, made when the weights are attached.

A weight's row has one scale, its largest value over 127, and so has each row of the input, found as it comes. The
product is of integers, exact, and gets both scales afterwards. So a request's row keeps to itself: what lies beside it
changes no bit of it, and its NaN or infinity stays its own. (torch's own dynamic quantisation has one scale for all
rows of an input: one row's outlier would cost all the others their precision.)

Embeddings, norms, attention and the head that gives the logits stay as they are stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from inference.engine.classes import ConfigRefused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel

LARGEST = 127
ZERO = 128
"""Inputs go in as unsigned bytes: that is what the processor multiplies with signed ones."""
LEAST_ROWS = 4
"""Fewer are filled up: one row alone takes longer than four (measured, 4096 x 1024 on two cores: 406 us, 297)."""
OUT_OF_REACH = 1e30
"""A row with a value beyond is broken; its product is NaN, so that whoever looks at its logits sees it."""
LEAST_SHARE = 0.5
"""Of a model's weights, embeddings and head aside, that lie in linear layers: with fewer it is hardly faster."""
LEAVE_OUT = "leave `quantize` out of model.toml and push again"


class Int8Linear(nn.Module):
    """What a linear layer computes, its weight in 8 bits and laid out for the library that multiplies."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        with torch.inference_mode():
            weight = linear.weight.float()
            scales = _scales(weight)
            levels = (weight / scales).round_().to(torch.int8)
            self._packed = torch.ops.onednn.qlinear_prepack(levels, None)
            self._scales = scales.flatten()
            self._zeros = torch.zeros(self.out_features, dtype=torch.long)
            self._bias = None if linear.bias is None else linear.bias.float()
        self.num_bytes = levels.nbytes

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's own name for it
        """See `nn.Linear`."""
        rows = input.reshape(-1, self.in_features).float()
        num_rows = len(rows)
        if num_rows < LEAST_ROWS:
            rows = torch.cat([rows, rows.new_zeros(LEAST_ROWS - num_rows, self.in_features)])
        scales = _scales(rows)
        out = self._product(rows.div(scales).round_().add_(ZERO).to(torch.uint8)).mul_(scales)[:num_rows]
        if self._bias is not None:
            out = out + self._bias
        return out.to(input.dtype).view(*input.shape[:-1], self.out_features)

    def _product(self, levels: torch.Tensor) -> torch.Tensor:
        """[rows, out] of [rows, in] levels, in units of each row's own scale."""
        weight = (self._packed, self._scales, self._zeros, None)
        out: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            levels, 1.0, ZERO, *weight, 1.0, 0, torch.float32, "none", [], ""
        )
        return out


def _scales(rows: torch.Tensor) -> torch.Tensor:
    """[rows, 1], what one level is worth: 1 in a row of zeros, NaN in a row that is no numbers."""
    largest = rows.abs().amax(dim=1, keepdim=True)
    scales = (largest / LARGEST).masked_fill_(largest == 0, 1.0)
    return scales.masked_fill_(~(largest < OUT_OF_REACH), torch.nan)


def check_quantisable(model: PreTrainedModel) -> None:
    """Whether int8 makes this model faster; it may be on the meta device.

    Raises:
        ConfigRefused: it does not, and why.
    """
    if not model.can_generate():
        raise ConfigRefused("cannot_quantize", "only models that generate text are quantised", LEAVE_OUT)
    apart = (model.get_input_embeddings(), _head(model))
    aside = {id(weight) for each in apart if each is not None for weight in each.parameters()}
    total = sum(weight.numel() for weight in model.parameters() if id(weight) not in aside)
    linear = sum(each.weight.numel() for _, _, each in _linears(model))
    if linear < LEAST_SHARE * total:
        share = f"{linear / max(1, total):.0%} of the weights of {type(model).__name__} lie in linear layers"
        raise ConfigRefused("cannot_quantize", f"only {share}: int8 would hardly make it faster", LEAVE_OUT)


def check_processor(device: str) -> None:
    """Whether int8 can be computed here.

    Raises:
        ConfigRefused: this is no CPU, or one without the instructions.
    """
    if device != "cpu":
        raise ConfigRefused(
            "cannot_quantize", f"int8 is for CPUs, and this node computes on {device}", LEAVE_OUT
        )
    if not torch.cpu._is_vnni_supported():  # noqa: SLF001 - torch has no public name for it
        raise ConfigRefused("cannot_quantize", "this node's processor has no AVX-512 VNNI", LEAVE_OUT)


def quantise(model: PreTrainedModel) -> int:
    """Put 8-bit layers in the places of the linear ones, the head excepted; the bytes of their weights."""
    num_bytes = 0
    for parent, name, linear in [*_linears(model)]:
        made = Int8Linear(linear)
        setattr(parent, name, made)
        num_bytes += made.num_bytes
    return num_bytes


def _linears(model: PreTrainedModel) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    head = _head(model)
    for parent in model.modules():
        for name, child in parent.named_children():
            if isinstance(child, nn.Linear) and child is not head:
                yield parent, name, child


def _head(model: PreTrainedModel) -> nn.Module | None:
    find: Any = model.get_output_embeddings
    head: nn.Module | None = find()
    return head
