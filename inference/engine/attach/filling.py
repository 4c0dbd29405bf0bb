"""A model of transformers' own class, filled with tensors that are there already.

`from_pretrained` knows every rule for names, ties and buffers, and pays for it with each tensor anew: it compiles a
pattern for every name and runs initialisers on memory that does not exist (for 300 tensors 0.18 s from views to
gates, against 0.11 here, measured). So where its rules come to nothing (every name a weight's own, no dtype to
convert, nothing to merge) the tensors are put in their places here, and transformers does the rest itself: ties,
computed buffers. Whatever is not as plain as that goes the long way.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import Parameter
from transformers import initialization, modeling_utils
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.monkey_patching import patch_output_recorders
from transformers.utils.generic import ContextManagers
from transformers.utils.loading_report import LoadStateDictInfo

from inference.engine.attach.alike import alike_layers
from inference.engine.attach.lean import lean_linears
from inference.engine.attach.walk import modules_of, names_of
from inference.engine.classes import init_arguments
from wire.counted import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from transformers import PreTrainedConfig, PreTrainedModel

Tensors = dict[str, torch.Tensor]

_FILLED = "_is_hf_initialized"
"""transformers' own mark of a tensor that is loaded, and of a module with nothing left to initialise."""
_USUAL_TRAIN = {nn.Module.train, modeling_utils.PreTrainedModel.train}


class AttachError(Exception):
    """These weights do not fill this model; `code` and a sentence."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def filled(
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    views: Tensors,
    dtype: torch.dtype,
    *,
    straight: bool = True,
) -> PreTrainedModel:
    """A model of these tensors, its every weight and buffer accounted for; with `straight` the short way if it can go.

    Raises:
        AttachError: a weight is missing or has another shape.
    """
    model = placed(model_class, config, views, dtype) if straight else None
    if model is None:
        model, report = _converted(model_class, config, views, dtype)
        _check_filled(model, report)
    return model


def placed(
    model_class: type[PreTrainedModel], config: PreTrainedConfig, views: Tensors, dtype: torch.dtype
) -> PreTrainedModel | None:
    """The model with each tensor where its name says; None where a rule of transformers asks for more.

    It looks at no byte of them, starts no thread and takes no memory for weights. Raises AttachError, as `filled`.
    """
    model = _empty(model_class, config, dtype)
    plain: Any = model
    weights = model.state_dict(keep_vars=True)
    absent = weights.keys() - views.keys()
    if (
        absent - plain.all_tied_weights_keys.keys()
        or plain._get_dtype_plan(dtype)  # noqa: SLF001 - as from_pretrained
        or not _are_plain(views, weights)
        or not _keep_their_names(model, weights)
    ):
        return None
    _place(model, views)
    _check_filled(model, _finished(plain, absent, dtype))
    return model


def _empty(
    model_class: type[PreTrainedModel], config: PreTrainedConfig, dtype: torch.dtype
) -> PreTrainedModel:
    """The model as `from_pretrained` makes it before it loads, on the meta device; no initialiser runs."""
    kind: Any = model_class
    config = copy.deepcopy(config)
    config.dtype = dtype
    contexts = kind.get_init_context(dtype, False, False, None)  # not quantised, no DeepSpeed, no hub kernels
    with (
        ContextManagers(contexts),
        initialization.no_init_weights(),
        lean_linears(),
        alike_layers(model_class, config),
    ):
        model: PreTrainedModel = kind(config, **init_arguments(model_class))
        patch_output_recorders(model)
    return model


def _are_plain(views: Tensors, weights: Mapping[str, torch.Tensor]) -> bool:
    """Whether each tensor is one of the model's weights as it is: by name, shape and dtype."""
    return all(
        (weight := weights.get(name)) is not None and (weight.shape, weight.dtype) == (view.shape, view.dtype)
        for name, view in views.items()
    )


def _keep_their_names(model: PreTrainedModel, weights: dict[str, torch.Tensor]) -> bool:
    """Whether no rule that transformers has for this model renames or merges one of these."""
    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    prefix = model.base_model_prefix
    return all(
        rename_source_key(name, renamings, converters, prefix, weights) == (name, None) for name in weights
    )


def _place(model: PreTrainedModel, views: Tensors) -> None:
    """Set each weight of the model, marked so that it is not initialised again."""
    modules = names_of(model)
    for name, view in views.items():
        path, _, part = name.rpartition(".")
        module = modules[path]
        is_buffer = part in module._buffers  # noqa: SLF001 - where torch keeps them
        own = view if is_buffer else Parameter(view, requires_grad=view.is_floating_point())
        setattr(own, _FILLED, True)
        _put(module, part, own)
    for module in reversed(modules_of(model)):  # what is in a module before it
        if _is_done(module):
            module.__dict__[_FILLED] = True


def _put(module: nn.Module, part: str, own: torch.Tensor) -> None:
    """What `setattr` comes to for a parameter that the module has, in a tenth of its time."""
    held = module._parameters  # noqa: SLF001 - where torch keeps them
    if part in held and isinstance(own, Parameter) and type(module).__setattr__ is nn.Module.__setattr__:
        held[part] = own
    else:
        setattr(module, part, own)


def _is_done(module: nn.Module) -> bool:
    """Whether transformers would look for something to initialise in it and find nothing: 30 us a module.

    Every weight in it is filled, that is, and there is no buffer and no tensor kept otherwise.
    """
    own = module.__dict__
    return (
        not own["_buffers"]
        and all(getattr(each, _FILLED, False) for each in own["_parameters"].values() if each is not None)
        and all(_FILLED in each.__dict__ for each in own["_modules"].values() if each is not None)
        and (bool(own["_parameters"]) or not any(isinstance(each, torch.Tensor) for each in own.values()))
    )


def _finished(model: Any, absent: set[str], dtype: torch.dtype) -> dict[str, Any]:
    """Ties, computed buffers and the last mode, by transformers; its report."""
    told: Any = LoadStateDictInfo(
        missing_keys=set(absent),
        unexpected_keys=set(),
        mismatched_keys=set(),
        conversion_errors={},
        error_msgs=[],
        skipped_pp_keys=set(),
    )
    model._finalize_model_loading(model, modeling_utils.LoadStateDictConfig(dtype=dtype), told)  # noqa: SLF001
    _rest(model)
    report: dict[str, Any] = told.to_dict()
    return report


def _rest(model: Any) -> None:
    """`model.eval()` in a third of its time, where no module has a rule of its own for it."""
    modules = modules_of(model)
    if any(type(each).train not in _USUAL_TRAIN for each in modules):
        model.eval()
    for each in modules:
        each.__dict__["training"] = False


def _converted(
    model_class: type[PreTrainedModel], config: PreTrainedConfig, views: Tensors, dtype: torch.dtype
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model by all of transformers' rules, in evaluation mode. Raises AttachError."""
    load: Any = model_class.from_pretrained
    try:
        found: tuple[PreTrainedModel, dict[str, Any]] = load(
            None,
            config=config,
            state_dict=views,
            dtype=dtype,
            output_loading_info=True,
            local_files_only=True,
            **init_arguments(model_class),
        )
    except RuntimeError as cause:
        raise AttachError("bad_weights", f"the weights do not fit {model_class.__name__}: {cause}") from cause
    return found


def _check_filled(model: PreTrainedModel, report: dict[str, Any]) -> None:
    """Every expected weight came from the landing; nothing is left on the meta device."""
    if missing := sorted(report["missing_keys"]):
        raise AttachError(
            "missing_tensors", f"missing: {counted(len(missing), 'tensor')}, among them {missing[:5]}"
        )
    if wrong := [*report["mismatched_keys"], *report["error_msgs"]]:
        raise AttachError(
            "bad_weights", f"what does not fit: {counted(len(wrong), 'tensor')}, among them {wrong[:3]}"
        )
    if any(tensor.is_meta for module in modules_of(model) for tensor in _own(module)):
        unfilled = [name for name, tensor in _tensors(model) if tensor.is_meta]
        raise AttachError(
            "bad_weights", f"not filled: {counted(len(unfilled), 'tensor')}, among them {unfilled[:5]}"
        )


def _own(module: nn.Module) -> list[torch.Tensor]:
    """The parameters and buffers of a module itself."""
    held = (*module._parameters.values(), *module._buffers.values())  # noqa: SLF001 - where torch keeps them
    return [tensor for tensor in held if tensor is not None]


def _tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)
