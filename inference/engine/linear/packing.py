"""Matrix products on a CPU with weights that lie as oneDNN's kernels read them.

torch multiplies float32 by MKL, which takes a weight as it is stored and is slow at a few rows; oneDNN is not, but
wants a copy of the weight in blocks. Measured (torch 2.13, one thread of an AMD EPYC with AVX-512, others at work,
least of 15; gigaflops of MKL straight, MKL turned (`weight @ x.T`), and packed; the core does 112 at most):

    weight         8 rows           16 rows          128 rows         512 rows
    1536 x 512     59   34   97     75   70  106     -    77   99     -
    512 x 1536     61   34   85     64   61   98     93   90  102     -    -   104
    1024 x 1024    46   28  101     63   68  107     82   88  102     -
    512 x 512      59   33   75     76   69   90     100  96  112     77   -   103

Fewer than four rows are multiplied several times over, which is faster (`SEVERAL` in `engine.linear.products`). The
numbers are the same on any number of threads (`test_engine_packing`), so `inference.engine.threads` may choose.

Copies are put into huge pages, which are read with fewer look-ups of addresses. Milliseconds of the products of six
layers of a 244 M Llama (356 MB; two cores, best of 16 in turns), in pages of 4 KiB and of 2 MiB:

                   8 rows         16 rows
    one thread     30.8  26.5     41.1  36.0
    two threads    19.6  16.0     25.3  20.8

Weights in 8 bits (`engine.linear.int8`) have only one form, and gain by huge pages as well: see `Growth`. A step of
the 244 M Llama, in turns, others at work, on one thread and by the clock on two: 21.9 and 18.0 ms, 17.2 and 15.7 at one
row; 49.4 and 46.4, 31.2 and 29.8 at 16.

A copy takes memory as the weights do, and two milliseconds for each MB: it is made when nobody waits, or a little at a
time between two tokens, and never before the first pass is done: a cold start does not pay for it, and all bytes are
there by then. Who asks again right after an answer does not find the engine at it: it waits for a moment of quiet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from inference.engine.attach.walk import modules_of
from inference.engine.linear.joined import SIBLINGS, Product, biases, stacked
from inference.engine.linear.products import HAS_ONEDNN, OneDNNLinear, packed_product
from weights_cache.memory.pages import HUGE_BYTES, beyond, collapse_own, own_spans

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LEAST_WEIGHTS = 50_000
"""Smaller products take less time than the way to the library, 10 us."""
PASS_BYTES = 4 * 1024 * 1024
"""Packed between two passes of a busy engine: a few milliseconds."""
QUIET_S = 0.25
"""Nobody was answered for so long: one who asks answer by answer is not here. A layer's copy takes 10 to 30 ms, and
the next request waited for the rest of it (13 to 20 ms at the middle, measured): it comes after a few ms, or some 100
where the cores are busy."""
MOST_QUIET_S = 1.0
"""Callers who never leave a moment of quiet gain by the copies too, so now and then one is made all the same."""


class PackedLinear(OneDNNLinear):
    """A linear layer that has a second copy of its weight, once that is made."""

    packed: torch.Tensor | None

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's own name for it
        """See `nn.Linear`."""
        product: Product | None = self.__dict__["_product"]
        if product is not None and input.numel():
            return product.take(self.__dict__["_number"], input)
        if self.packed is None or not input.numel():
            return super().forward(input)
        return packed_product(input, self.packed, self.bias)

    def pack(self) -> int:
        """Make the copy; the bytes of the weight."""
        with torch.inference_mode():
            self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach(), None)  # noqa: SLF001
        collapse_own(*span_of(self.packed))
        return self.weight.nbytes


class PackedSiblings(Product):
    """The copies of queries', keys' and values' weights as one: small products take longer than to read them.

    Microseconds of 1536 x 1024 at 4, 8 and 16 rows on two threads, others at work: 203, 240 and 315; of the three that
    it is made of 231, 282 and 359.
    """

    weight_bytes = torch.float32.itemsize
    _packed: torch.Tensor
    _bias: torch.Tensor | None

    def __init__(self, linears: Sequence[PackedLinear]) -> None:
        super().__init__(linears)
        self._linears = linears

    def pack(self) -> int:
        """Make the copy, by which all of them are computed from then on; the bytes of the weights."""
        with torch.inference_mode():
            self._packed = torch.ops.mkldnn._reorder_linear_weight(stacked(self._linears), None)  # noqa: SLF001
            self._bias = biases(self._linears)
        collapse_own(*span_of(self._packed))
        for number, layer in enumerate(self._linears):
            layer.__dict__.update(_product=self, _number=number)
        return sum(layer.weight.nbytes for layer in self._linears)

    def whole(self, given: torch.Tensor, rest: torch.Tensor | None = None) -> torch.Tensor:
        """See `Product`."""
        out = packed_product(given, self._packed, self._bias)
        return out if rest is None else out.add_(rest)


class Piece:
    """Memory of this process that is to be in huge pages: not a copy of a weight, and gone about as one."""

    def __init__(self, low: int, high: int) -> None:
        self._low, self._num_bytes = low, high - low

    def pack(self) -> int:
        """Put it into them, if it still is where it was; its bytes."""
        collapse_own(self._low, self._num_bytes)
        return self._num_bytes


class Growth:
    """The memory that this process takes from now on: for weights in 8 bits, which do not tell where they lie."""

    def __init__(self) -> None:
        self._before = own_spans()

    def pieces(self) -> list[Piece]:
        """What it has taken by now, cut for `Packing`. What it shares with its parent is none of it."""
        spans = [(low + -low % HUGE_BYTES, high) for low, high in beyond(own_spans(), self._before)]
        cuts = [
            (at, min(at + PASS_BYTES, high)) for low, high in spans for at in range(low, high, PASS_BYTES)
        ]
        return [Piece(low, high) for low, high in cuts if high - low >= HUGE_BYTES]


def span_of(packed: torch.Tensor) -> tuple[int, int]:
    """Where a copy lies, and its bytes: such a tensor does not tell these itself."""
    return torch.ops.mkldnn.data_ptr(packed), torch.ops.mkldnn._nbytes(packed)  # noqa: SLF001


class Packing:
    """The copies that are still to be made of one model's layers."""

    def __init__(self, model: nn.Module, layers: Sequence[Any], pieces: Sequence[Piece] = ()) -> None:
        self._waiting: list[Any] = [*pieces, *_joined(model, layers)]
        self._has_passed = False
        self._answered_s = 0.0
        self._packed_s: float | None = None
        for layer in layers:
            object.__setattr__(layer, "__class__", PackedLinear)  # a module's own looks for tensors first
            layer.__dict__.update(packed=None, _product=None)
        self._hook = model.register_forward_hook(self._passed)

    @property
    def is_wanted(self) -> bool:
        """Whether there is something to be done, now or in a moment of quiet."""
        return self._has_passed and bool(self._waiting)

    def answered(self, now: float) -> None:
        """Somebody got a token at `now`, in seconds of any one clock."""
        self._answered_s = now
        self._packed_s = now if self._packed_s is None else self._packed_s

    def patience_s(self, now: float) -> float:
        """Seconds until an engine that has nothing else to do is to go on; 0 from then on."""
        packed_s = now if self._packed_s is None else self._packed_s
        return max(0.0, min(self._answered_s + QUIET_S, packed_s + MOST_QUIET_S) - now)

    def go_on(self, now: float) -> None:
        """Make some copies: `PASS_BYTES` of them, one at least."""
        self._packed_s = now
        done_bytes = 0
        while self._waiting and done_bytes < PASS_BYTES:
            done_bytes += self._waiting.pop().pack()

    def _passed(self, *_: Any) -> None:
        """A whole pass is done, so every byte of the weights is there; the next ones gain by what is packed now."""
        self._has_passed = True
        self._hook.remove()


def pack_products(model: nn.Module, budget_bytes: int, pieces: Sequence[Piece] = ()) -> Packing | None:
    """Have the plain float32 layers of `model` packed as it goes, if all fit the budget; None if nothing is to be done.

    `pieces` are put into huge pages after them.

    To be called after `fit_onednn`, whose way they go until then. Some layers alone are not packed: what they gain
    is little, and a budget that small is of a host with better use for it.
    """
    plain = (each for each in modules_of(model) if isinstance(each, nn.Linear))
    layers = [each for each in plain if type(each) in {nn.Linear, OneDNNLinear} and _gains(each.weight)]
    fits = sum(each.weight.nbytes for each in layers) <= budget_bytes
    layers = layers if fits and HAS_ONEDNN else []
    return Packing(model, layers, pieces) if layers or pieces else None


def _joined(model: nn.Module, layers: Sequence[Any]) -> Iterator[Any]:
    """The layers in their order, those of one attention together.

    A gate's would be packed for too long between two tokens: 32 MB of the 244 M Llama take 64 ms.
    """
    ids, firsts, others = {id(each) for each in layers}, {}, set()
    for parent in modules_of(model):
        own = [getattr(parent, name, None) for name in SIBLINGS[0]]
        if all(id(each) in ids for each in own) and len({each.in_features for each in own if each}) == 1:
            firsts[id(own[0])] = PackedSiblings(own)  # type: ignore[arg-type]
            others |= {id(each) for each in own[1:]}
    return (firsts.get(id(each), each) for each in layers if id(each) not in others)


def _gains(weight: torch.Tensor) -> bool:
    return weight.dtype is torch.float32 and weight.numel() >= LEAST_WEIGHTS
