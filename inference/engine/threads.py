"""How many threads a pass is worth: more of them shorten a large one, and lengthen a small one.

Waking a second thread for each matrix product costs more than it saves while the products are small. Measured on
two cores with passive waiting (torch 2.13, float32, llama shapes of 3 to 120 million weights; ratio of one thread's
time to two's): 3 M weights 0.6-0.95 up to 384 tokens; 12 M 0.6-0.95 up to 96 tokens and 1.3-1.4 at 384; 45 M and
more 1.0-1.7 whatever the tokens, because their weights do not stay in the caches and both cores read memory.

A few rows of a large model are between the two, and there it depends on who else is at work on the cores: a thread
that waits a moment for its next product (`GOMP_SPINCOUNT`, see `inference.zygote`) makes a step on idle cores a third
to a half shorter, and twice as long where another process wants the core (25 M weights, one row: 10 ms on two idle
cores, 15 on one; beside a busy process 45 and 20). So there it is measured, as the passes go (`Choice`).
"""

from __future__ import annotations

import time
from collections import deque
from statistics import median_low
from typing import TYPE_CHECKING, Any

import torch

from inference.engine.attach.walk import modules_of
from inference.engine.linear.joined import JoinedLinear

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

CACHED_BYTES = 64 * 1024 * 1024
"""Weights up to this may stay in the caches between passes; larger ones come from memory, faster by two cores."""
PARALLEL_PRODUCTS = 2.5e9
"""Multiplications (weights x tokens) from which a pass over cached weights is shorter on all threads."""
FEW_TOKENS = 32
"""Passes up to this choose by what was measured: their products' bits are the same on any number of threads. One
with a chunk of a prompt in it never does: all streams wait longest for that, so it must not be the one that tries what
is slower, and what chunks cost is learned best where all have the same threads (`inference.engine.steps.pace`)."""
REMEMBERED = 3
"""Passes whose median stands for the rest: one that waited for bytes or was cut short says nothing."""
FIRST_PATIENCE, MOST_PATIENCE = 32, 1024
"""Passes until the other number of threads is tried again: doubled each time it is the slower one again."""
SOONER = 8
"""Who is on one thread tries all of them so many times as often: with idle cores each pass there lasts half as long
again, for as long as nobody looks."""


def wanted(num_weights: int, num_bytes: int, num_tokens: int, most: int) -> int:
    """Threads for a pass of so many tokens: all `most` if it is large enough to gain by them, else one."""
    large = num_bytes > CACHED_BYTES or num_weights * num_tokens >= PARALLEL_PRODUCTS
    return most if large else 1


class Choice:
    """One thread or all, for passes of like size: the faster one of late, the other tried now and then.

    All have the first passes, and then one thread has one. A single quick pass is enough for the other to be taken:
    what others do on the cores makes passes slow, and none quick. How long the chosen one takes is a median.
    """

    __slots__ = ("_best", "_left", "_most", "_patience", "_times")

    def __init__(self, most: int) -> None:
        self._best = self._most = most
        self._times: deque[float] = deque(maxlen=REMEMBERED)
        self._patience = FIRST_PATIENCE
        self._left = REMEMBERED

    def threads(self) -> int:
        """How many the next pass is to have."""
        return self._best if self._left > 0 else self._other

    def note(self, count: int, seconds: float) -> None:
        """A pass on so many threads took `seconds`."""
        if count == self._best:
            self._times.append(seconds)
            self._left -= 1
        else:
            self._judge(seconds)

    @property
    def _other(self) -> int:
        return self._most if self._best == 1 else 1

    def _judge(self, seconds: float) -> None:
        """The other one was tried: does it stay the other?"""
        if self._times and seconds < median_low(self._times):
            self._best, self._patience = self._other, FIRST_PATIENCE
            self._times = deque([seconds], maxlen=REMEMBERED)
        else:
            self._patience = min(2 * self._patience, MOST_PATIENCE)
        self._left = self._patience // (SOONER if self._best == 1 else 1)


def fit_each_pass(model: nn.Module, most: int, *, measured: bool = True) -> None:
    """Set torch's thread count before each pass of `model`, the only one of this process.

    Without `measured` it depends on nothing but the pass' size.
    """
    modules = modules_of(model)
    joined = [each for each in modules if isinstance(each, JoinedLinear)]
    weights = {weight for each in modules for weight in each._parameters.values() if weight is not None}  # noqa: SLF001
    num_weights = sum(weight.numel() for weight in weights) + sum(each.num_weights for each in joined)
    num_bytes = sum(weight.nbytes for weight in weights) + sum(each.num_bytes for each in joined)
    is_large = measured and most > 1 and num_bytes > CACHED_BYTES
    fitted = _Fitted(most, lambda num_tokens: wanted(num_weights, num_bytes, num_tokens, most), is_large)
    model.register_forward_pre_hook(fitted.begin, with_kwargs=True)
    if is_large:
        model.register_forward_hook(fitted.end)


class _Fitted:
    """The hooks around each pass."""

    def __init__(self, most: int, rule: Callable[[int], int], measures: bool) -> None:
        self._most = most
        self._rule = rule
        self._measures = measures
        self._choices: dict[int, Choice] = {}
        self._choice: Choice | None = None
        self._began_s = 0.0

    def begin(self, _: nn.Module, __: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        num_tokens = inputs["input_ids"].numel()
        kept = inputs.get("logits_to_keep")
        num_rows = kept.numel() if isinstance(kept, torch.Tensor) else num_tokens
        self._choice = None
        if self._measures and num_tokens <= FEW_TOKENS and num_rows == num_tokens:
            self._choice = self._choices.setdefault(num_tokens.bit_length(), Choice(self._most))
        num_threads = self._choice.threads() if self._choice else self._rule(num_tokens)
        if num_threads != torch.get_num_threads():
            torch.set_num_threads(num_threads)
        self._began_s = time.perf_counter()

    def end(self, *_: Any) -> None:
        if self._choice is not None:
            self._choice.note(torch.get_num_threads(), time.perf_counter() - self._began_s)
