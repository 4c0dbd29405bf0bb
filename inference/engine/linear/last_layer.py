"""Of the last layer only what somebody asks for: the rows that sample.

Behind the last layer's attention no token looks at another any more, and of a prompt only the last token is to say
something. All others of it are done when their keys and values are stored: their queries need no answer, and the
products that follow (nine tenths of the layer's weights) no row of theirs. That is most of one layer for each prompt:
a twelfth of it where there are eight, without a number that anyone reads being another.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from inference.engine.linear.joined import JoinedLinear

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from transformers import PreTrainedModel


class LastLayer:
    """The last decoder layer of a model, whose products leave out rows once it has attended."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.index = model.config.num_hidden_layers - 1
        self._rows: torch.Tensor | None = None
        self._num_tokens = 0
        self._cut: tuple[torch.Tensor, torch.Tensor] | None = None
        for module in _last_of(model, self.index + 1).modules():
            if isinstance(module, nn.Linear | JoinedLinear):
                setattr(module, "forward", self._only_kept(module))  # noqa: B010 - mypy takes a method for fixed

    def is_of(self, module: nn.Module) -> bool:
        """Whether this attention is the last one."""
        return bool(getattr(module, "layer_idx", None) == self.index)

    @contextmanager
    def shortened(self) -> Iterator[None]:
        """One pass, in which `attended` is told when its rows part."""
        try:
            yield
        finally:
            self._rows = self._cut = None

    def attended(self, rows: torch.Tensor, num_tokens: int) -> None:
        """From here on products of [1, num_tokens, ..] are made for `rows` alone, the others being zero."""
        if len(rows) < num_tokens:
            self._rows, self._num_tokens = rows, num_tokens

    def _only_kept(self, module: nn.Linear | JoinedLinear) -> Callable[[torch.Tensor], torch.Tensor]:
        def forward(input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's own name for it
            rows = self._rows
            if rows is None or input.ndim != 3 or input.shape[1] != self._num_tokens:
                return _whole(module, input)
            out = input.new_zeros(*input.shape[:2], module.out_features)
            if len(rows):
                out[:, rows] = _whole(module, self._cut_of(input, rows))
            return out

        return forward

    def _cut_of(self, given: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """These rows of it, one tensor for all layers that are given the same: they know each other by that."""
        if self._cut is None or self._cut[0] is not given:
            self._cut = given, given[:, rows]
        return self._cut[1]


def _whole(module: Any, rows: torch.Tensor) -> torch.Tensor:
    """What its class makes of all rows: another class, once it is packed."""
    out: torch.Tensor = type(module).forward(module, rows)
    return out


def _last_of(model: PreTrainedModel, count: int) -> nn.Module:
    """The last of the model's layers; something empty where they are in no list."""
    stacks = (each for each in model.modules() if isinstance(each, nn.ModuleList) and len(each) == count)
    return next((stack[-1] for stack in stacks), nn.ModuleList())
