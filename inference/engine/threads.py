"""How many threads a pass is worth: more of them shorten a large one, and lengthen a small one.

Waking a second thread for each matrix product costs more than it saves while the products are small. Measured on
two cores with passive waiting (torch 2.13, float32, llama shapes of 3 to 120 million weights; ratio of one thread's
time to two's): 3 M weights 0.6-0.95 up to 384 tokens; 12 M 0.6-0.95 up to 96 tokens and 1.3-1.4 at 384; 45 M and
more 1.0-1.7 whatever the tokens, because their weights do not stay in the caches and both cores read memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import nn

CACHED_BYTES = 64 * 1024 * 1024
"""Weights up to this may stay in the caches between passes; larger ones come from memory, faster by two cores."""
PARALLEL_PRODUCTS = 2.5e9
"""Multiplications (weights x tokens) from which a pass over cached weights is shorter on all threads."""


def wanted(num_weights: int, num_bytes: int, num_tokens: int, most: int) -> int:
    """Threads for a pass of so many tokens: all `most` if it is large enough to gain by them, else one."""
    large = num_bytes > CACHED_BYTES or num_weights * num_tokens >= PARALLEL_PRODUCTS
    return most if large else 1


def fit_each_pass(model: nn.Module, most: int) -> None:
    """Set torch's thread count before each pass of `model`, the only one of this process."""
    num_weights = sum(weight.numel() for weight in model.parameters())
    num_bytes = sum(weight.numel() * weight.element_size() for weight in model.parameters())

    def fit(_: nn.Module, __: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        num_threads = wanted(num_weights, num_bytes, inputs["input_ids"].numel(), most)
        if num_threads != torch.get_num_threads():
            torch.set_num_threads(num_threads)

    model.register_forward_pre_hook(fit, with_kwargs=True)
