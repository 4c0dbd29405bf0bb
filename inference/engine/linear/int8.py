"""`quantize = "int8"`: linear layers in 8-bit integers on a CPU, made when the weights are attached.

A weight's row has one scale, its largest value over 127, and so has each row of the input, found as it comes. The
product is of integers, exact, and gets both scales afterwards. So a request's row keeps to itself: what lies beside it
changes no bit of it, and its NaN or infinity stays its own. (torch's own dynamic quantisation has one scale for all
rows of an input: one row's outlier would cost all the others their precision.)

An input that is not shorter than the output, as what a gate gives back to the model's width, has few large numbers and
many small ones, and one scale for both would round the small ones away. It is rotated first, sixty-four numbers at a
time, by a matrix of ones and minus ones (Hadamard's), which deals each large one out to all of its block; the weight
has been rotated as well, and the product is the same (the idea is QuaRot's, arXiv 2404.00456).

Layers that are given the same input, as queries, keys and values are made of, lie below each other as one weight: one
product of 1536 x 1024 takes 89 and 180 us at 1 and 16 rows, the three that it is made of 153 and 273; on two threads,
which small products hardly gain by, 95 and 106 for 143 and 198.

Embeddings, norms and attention stay as they are stored. The first layers' products and the head that gives the logits
are in bfloat16 where the processor multiplies such numbers (`engine.linear.narrow`), and stay as stored elsewhere.

The product is FBGEMM's, by the operator that rounds its input to the levels of one given scale: that of a row that is
alone, or 1 for rows scaled before. Its weights lie in blocks and are read once at any number of rows, and torch has it
for every x86 processor. Measured with other products of the same integers (torch 2.13, one thread of an EPYC, AVX-512,
weights not in the caches, others at work, least of 6 in turns; microseconds at 1, 2 and 16 rows; the bits are the
same; MKL and packed of float32 last):

    weight         FBGEMM             `qlinear_pointwise`   `_int_mm`   MKL                    packed
    1024 x 1024     73    74   136    111   130   152       113          312    547    734     307    386    464
    256 x 1024      51    58    99     74    84   101        50          106    116    216     143    139    192
    4096 x 1024    234   223   456    437   424   534       482        1,434  2,794  3,474   1,377  1,409  1,682
    1024 x 4096    228   221   594    467   383   568       323        1,276  1,918  3,528   1,599  1,090  1,952

`quantized.linear_dynamic` is as fast and has one scale for all rows; `_weight_int8pack_mm` has no fast way for float32
and in bfloat16 takes a third longer than `_int_mm`; `_dyn_quant_matmul_4bit` is ten times slower than float32 here.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from inference.engine.classes import ConfigRefused
from inference.engine.linear.int8_trial import LinearPlace, is_product, reads_weights
from inference.engine.linear.joined import SIBLINGS, JoinedLinear, Product, biases, stacked
from inference.engine.linear.levels import Levels, mixed, mixing, scaled, scales_of
from inference.engine.linear.narrow import NARROWED, NarrowProduct, is_faster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from transformers import PreTrainedModel

ZERO = 128
"""What stands for nothing in the product's input, which has no sign: the instructions multiply such by signed ones."""
OLD_FASHIONED = "torch.quantize_per_tensor"
"""How torch's warning begins that tensors of a quantised type are to go one day. This one only carries a weight to its
packing, which takes no other; the torch that we pin has it."""
LEAST_SHARE = 0.5
"""Of a model's weights, embeddings and head aside, that lie in linear layers: with fewer it is hardly faster."""
KEPT_ONE_OF = 16
"""Of so many layers the first is not put into 8 bits, and of the next two those products that are not which are smaller
than the layer's mean (of attention, mostly): what the first ones round off, all the others make larger. Least cosine of
128 positions' logits of a random 16-layer Llama, and the share of its products' weights, as stored, with inputs of one
scale a row, wide ones of two levels:

    all in 8 bits                0.9962   0 %        the first stays, wide inputs in two levels      0.9989   6 %
    the first layer stays        0.9983   6 %        ... and values and output of the second stay    0.9992   7 %
    the first three stay         0.9992  19 %        ... and all of the second one's attention       0.9992   7 %

Since they are rotated 0.9992, and in bfloat16 (`engine.linear.narrow`) 0.9991: of four prompts, the least ones and
what is missing from 1 on average, in millionths

    first layer, second's attention, as stored      0.99919  0.99929  0.99923  0.99931      549
    ... in bfloat16                                 0.99911  0.99917  0.99917  0.99925      602
    ... and the third's attention                   0.99915  0.99925  0.99925  0.99934      549
    first two layers                                0.99921  0.99934  0.99935  0.99934      512

Scales a row for groups of 128 weights, with the input in 16 bits, none kept: 0.9987, and eight products for one."""
FEW_LAYERS = 6
"""With fewer, all are: each would be a large part of all, and what they round off has little way to grow."""
LEAVE_OUT = "leave `quantize` out of model.toml and push again"


class Int8Product(Product):
    """Weights in 8 bits."""

    weight_bytes = 1

    def __init__(self, linears: Sequence[nn.Linear], levels: Levels) -> None:
        super().__init__(linears)
        self._levels = levels
        with torch.inference_mode():
            weight = stacked(linears)
            self._mix = mixing(self.in_features) if self.in_features >= len(weight) else None
            weight = weight if self._mix is None else mixed(weight, self._mix / len(self._mix))
            self._packed, self._worth = _packed(weight)
            self._bias = biases(linears)

    def whole(self, given: torch.Tensor, rest: torch.Tensor | None = None) -> torch.Tensor:
        """See `Product`."""
        product: Any = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
        rows, scales = (
            self._levels.of(given) if self._mix is None else scaled(mixed(given.float(), self._mix))
        )
        if isinstance(scales, float):
            out: torch.Tensor = product(rows, scales, ZERO, self._packed)
        else:
            out = product(rows, 1.0, ZERO, self._packed).mul_(scales)
        added = [each for each in (self._bias, rest) if each is not None]
        if not added:
            return out.mul_(self._worth)
        out = torch.addcmul(added[0], out, self._worth)
        return out.add_(added[1]) if added[1:] else out


def _packed(weight: torch.Tensor) -> tuple[Any, torch.Tensor]:
    """[out, in] as the product takes it, each row over its scale, and [out] scales."""
    scales = scales_of(weight)
    whole = (weight / scales).round_().to(torch.int8)
    zeros = torch.zeros(len(weight), dtype=torch.long)
    make: Any = torch._make_per_channel_quantized_tensor  # noqa: SLF001 - the public one rounds by scales of its own
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", OLD_FASHIONED, UserWarning)
        packed = torch.ops.quantized.linear_prepack(make(whole, torch.ones(len(weight)), zeros, 0), None)
    return packed, scales.flatten()


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
    if reads_weights(model, _linears(model)):
        message = f"{type(model).__name__} reads the weights of its linear layers itself"
        raise ConfigRefused("cannot_quantize", message, LEAVE_OUT)


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
    """Put narrower layers in the places of the linear ones; the bytes of these.

    The first ones and the head are in bfloat16 where that is faster than as stored, all others in 8 bits.
    """
    kept, levels = _kept(model), Levels()
    places, head = _linears(model), _heads(model) if is_faster() else []
    in_8_bits = [each for each in places if id(each[2]) not in kept]
    rest = [*(each for each in places if id(each[2]) in kept), *head]
    first = [each for each in rest if each[2].weight.dtype in NARROWED]
    num_bytes = _replace(in_8_bits, lambda linears: Int8Product(linears, levels))
    return num_bytes + (_replace(first, NarrowProduct) if is_faster() else 0)


def _replace(places: Sequence[LinearPlace], make: Callable[[list[nn.Linear]], Product]) -> int:
    """Put what `make` makes of them where they are; the bytes of its weights."""
    num_bytes = 0
    for parent, names in [*_groups(places)]:
        product = make([getattr(parent, name) for name in names])
        for number, name in enumerate(names):
            made = JoinedLinear(product, number)
            setattr(parent, name, made)
            num_bytes += made.num_bytes
    return num_bytes


def _groups(places: Sequence[LinearPlace]) -> Iterator[tuple[nn.Module, tuple[str, ...]]]:
    """Parents of linear layers and their names there: siblings together, others alone."""
    own: dict[nn.Module, dict[str, int]] = {}
    for parent, name, linear in places:
        own.setdefault(parent, {})[name] = linear.in_features
    for parent, sizes in own.items():
        joined = [
            names for names in SIBLINGS if names[0] in sizes and len({sizes.get(name) for name in names}) == 1
        ]
        alone = sizes.keys() - {name for names in joined for name in names}
        yield from ((parent, names) for names in (*joined, *((name,) for name in sorted(alone))))


def _kept(model: PreTrainedModel) -> set[int]:
    """The modules that are not put into 8 bits, see `KEPT_ONE_OF`."""
    count = model.config.num_hidden_layers
    stacks = (each for each in model.modules() if isinstance(each, nn.ModuleList) and len(each) == count)
    layers = next(stacks, nn.ModuleList())
    num_whole = max(1, round(count / KEPT_ONE_OF)) if count >= FEW_LAYERS else 0
    small = (each for layer in layers[num_whole : 3 * num_whole] for each in _smaller(layer))
    return {id(each) for each in (*layers[:num_whole].modules(), *small)}


def _smaller(layer: nn.Module) -> list[nn.Linear]:
    """The linear layers with fewer weights than they have on average."""
    linears = [each for each in layer.modules() if isinstance(each, nn.Linear)]
    total = sum(each.weight.numel() for each in linears)
    return [each for each in linears if each.weight.numel() * len(linears) < total]


def _linears(model: PreTrainedModel) -> list[LinearPlace]:
    """Where layers are that may be replaced, the head not among them."""
    head = _head(model)
    return _products(model, lambda child: child is not head)


def _heads(model: PreTrainedModel) -> list[LinearPlace]:
    """Where the head is; nowhere if it is no linear layer, or something of the model reads its weight itself."""
    head = _head(model)
    found = _products(model, lambda child: child is head)
    return [] if reads_weights(model, [*_linears(model), *found]) else found


def _products(model: PreTrainedModel, wanted: Callable[[nn.Module], bool]) -> list[LinearPlace]:
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear) and wanted(child)
    ]
    products = {kind for kind in {type(child) for _, _, child in found} if is_product(kind)}
    return [each for each in found if type(each[2]) in products]


def _head(model: PreTrainedModel) -> nn.Module | None:
    find: Any = model.get_output_embeddings
    head: nn.Module | None = find()
    return head
