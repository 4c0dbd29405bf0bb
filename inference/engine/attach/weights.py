"""From landed bytes to a model: views without copies, attached before the bytes are there where that is safe.

`attach` hands transformers a state dict of views into the landing, so that its own rules for names, ties and
buffers hold. If every weight ends up as a view at its tensor's own place, the model may run while bytes still
land: `Gate`s make each module wait for its own extents. If anything was copied or converted (another dtype,
merged experts, unaligned tensors), the bytes are waited for first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from inference.engine.attach.filling import filled
from inference.engine.attach.gates import Gates, waits_of
from inference.engine.attach.views import COMPUTED, DTYPES, NAMED, spans_of, stored_dtype, views_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

    from inference.engine.attach.filling import Tensors
    from inference.engine.attach.gates import Landed, Wait, Waits
    from inference.engine.attach.views import Place
    from inference.engine.gpu.copier import Copier
    from weights_cache.model.plan import Layout
    from weights_cache.model.revision import Revision

    Fill = Callable[[type[PreTrainedModel], PreTrainedConfig, Tensors, torch.dtype], PreTrainedModel | None]


@dataclass(frozen=True, slots=True)
class Attached:
    """A model whose every weight is filled, now or when its gate opens."""

    model: PreTrainedModel
    copied_bytes: int
    """Bytes of weights that are not views of the landing."""
    gates: Waits | None
    """None if every byte is here."""
    copier: Copier | None = None
    """What brings (or brought) the weights to a device."""


@dataclass(frozen=True, slots=True)
class Made:
    """A model that views its every weight's own place, whatever lies there."""

    model: PreTrainedModel
    waits: list[Wait]


def attach(
    revision: Revision,
    landed: Landed,
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    *,
    dtype: str,
    gated: bool,
    made: Made | None = None,
) -> Attached:
    """Fill a model with the revision's weights, in `dtype` ("auto" keeps the one most bytes are stored in).

    `gated` allows a start before the bytes are here, for classes that call their layers as modules. `made` is this
    model, if it was made before, of views of the landing's place.

    Raises:
        AttachError: a weight is missing or has another shape.
        LandingError: the bytes do not land.
    """
    if made is None and gated:
        made = made_ahead(revision, landed, model_class, config, dtype=dtype)
    if made is not None and gated:
        return Attached(made.model, 0, Gates(made.waits, landed))
    landed.wait_all()
    if made is not None:
        return Attached(made.model, 0, None)
    target = NAMED.get(dtype) or stored_dtype(revision.tensors)
    model = filled(model_class, config, views_of(revision, landed), target)
    return Attached(model, _copied_bytes(model, landed.buffer), None)


def made_ahead(
    revision: Revision,
    place: Place,
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    *,
    dtype: str,
    fill: Fill = filled,
) -> Made | None:
    """The model before its bytes are here; None if making it looks at them, or copies, or `fill` knows no way.

    Raises:
        AttachError: a weight is missing or has another shape.
    """
    target = NAMED.get(dtype) or stored_dtype(revision.tensors)
    if _reads_bytes(revision, place.layout, model_class, config, target):
        return None
    model = fill(model_class, config, views_of(revision, place), target)
    spans = {} if model is None else spans_of(model.state_dict(keep_vars=True), place.buffer)
    if model is None or None in spans.values():
        return None
    return Made(model, waits_of(model, revision, place.layout, spans))


def _reads_bytes(
    revision: Revision,
    places: Layout,
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    target: torch.dtype,
) -> bool:
    """True if attaching looks at values: to convert, to align, or to compare a tied pair stored twice."""
    return ties_stored_twice(revision, model_class, config) or any(
        (tensor.dtype in COMPUTED and DTYPES[tensor.dtype] != target)
        or places.place(tensor) % DTYPES[tensor.dtype].itemsize
        for tensor in revision.tensors
    )


def ties_stored_twice(
    revision: Revision, model_class: type[PreTrainedModel], config: PreTrainedConfig
) -> bool:
    """True if a weight that is tied to another is stored too: then their values say whether it is."""
    ties = getattr(config.get_text_config(), "tie_word_embeddings", True)
    tied = tuple(getattr(model_class, "_tied_weights_keys", None) or ()) if ties else ()
    return any(tensor.name.endswith(name) for tensor in revision.tensors for name in tied)


def _copied_bytes(model: PreTrainedModel, buffer: memoryview) -> int:
    weights = model.state_dict(keep_vars=True)
    outside = {name for name, span in spans_of(weights, buffer).items() if span is None}
    return sum({weights[name].data_ptr(): weights[name].nbytes for name in outside}.values())
