"""Layers that are alike are made once, and copied as often as the model has them.

A layer of transformers' is some thirteen modules, each with twenty tables of its own, and takes a third of a
millisecond to make; a model has up to a hundred that differ in nothing but their number. A copy takes a tenth of
that. It is made only where it is certain to be what another call would make:

- The first layer is made with a mark in place of its number. The mark can be kept, and nothing else: to count with
  it, compare it, or look something up by it fails, and then every layer is made by its own class as ever. Only what
  `config.layer_types` says of it may be asked; who asks gets a copy of a layer of the same type.
- A layer is copied only if all that it holds is of kinds that are known to be free to share (numbers, names,
  functions, the config) or known how to make anew (modules, their empty tables). Weights without memory are shared:
  each of them is replaced by a tensor of its own before the model is used, or the model is refused.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from contextlib import contextmanager
from functools import partial
from inspect import signature
from types import BuiltinFunctionType, FunctionType
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedConfig, PreTrainedModel

_PLAIN = (int, float, bool, str, type(None), torch.dtype, type, BuiltinFunctionType)
"""Kinds of values that nobody changes in place."""
_TABLES = (dict, OrderedDict, set)
_MADE_LIKE_THIS = ["self", "config", "layer_idx"]
_TYPES = "layer_types"


class _Looked(Exception):
    """A layer asked for more of its number than to keep it."""


class _Number:
    """Stands for a layer's number while it is made. Whatever is done with it but keeping it raises `_Looked`."""

    __slots__ = ("at", "kind")

    def __init__(self, at: int) -> None:
        self.at = at
        self.kind: tuple[object, ...] = ()

    def _refuse(self, *_: object) -> NoReturn:
        raise _Looked

    @property  # type: ignore[misc]
    def __class__(self) -> type:  # isinstance says what it says of a number
        return int

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __hash__ = __bool__ = _refuse
    __index__ = __int__ = __float__ = __str__ = __repr__ = __format__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __mod__ = __rmod__ = _refuse
    __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = __pow__ = __rpow__ = __neg__ = _refuse


class _Types(list[Any]):
    """`config.layer_types`, which may be asked for a `_Number`'s own and remembers with it what it said."""

    def __getitem__(self, key: Any) -> Any:
        if type(key) is not _Number:
            return super().__getitem__(key)
        found = super().__getitem__(key.at)
        key.kind = (found,)
        return found


@contextmanager
def alike_layers(model_class: type[PreTrainedModel], config: PreTrainedConfig) -> Iterator[None]:
    """Within it the layers of this class' file that are made of `config` are copies where that is the same."""
    own, known = vars(config), vars(config).get(_TYPES)
    if type(known) is list:
        own[_TYPES] = _Types(known)
    usual = {kind: kind.__init__ for kind in _layers(model_class)}
    for kind in usual:
        kind.__init__ = _copying(kind, config)
    try:
        yield
    finally:
        for kind, init in usual.items():
            kind.__init__ = init
        if type(known) is list:
            own[_TYPES] = known


def _layers(model_class: type[PreTrainedModel]) -> list[Any]:
    """The layers of the class' own file, those that are made of a config and their number."""
    found = vars(sys.modules[model_class.__module__]).values()
    return [
        kind
        for kind in found
        if isinstance(kind, type)
        and issubclass(kind, GradientCheckpointingLayer)
        and "__init__" in vars(kind)
        and list(signature(kind.__init__).parameters) == _MADE_LIKE_THIS
    ]


def _copying(kind: Any, config: PreTrainedConfig) -> Any:
    """What makes a layer of this class for as long as layers are copied."""
    usual = kind.__init__
    patterns: dict[tuple[object, ...], _Pattern | None] = {}

    def made(self: nn.Module, config_: Any, layer_idx: Any) -> None:
        if type(self) is not kind or config_ is not config or type(layer_idx) is not int:
            usual(self, config_, layer_idx)
            return
        said = (own[layer_idx],) if (own := vars(config).get(_TYPES)) and layer_idx < len(own) else ()
        pattern = next((patterns[key] for key in ((), said) if key in patterns), _UNKNOWN)
        if pattern is _UNKNOWN:
            asked, pattern = _first(usual, self, config, layer_idx)
            patterns[asked] = pattern
        elif pattern is None:
            usual(self, config, layer_idx)
        else:
            pattern.copy_into(self, layer_idx)

    return made


_UNKNOWN: Any = object()


def _first(
    usual: Any, layer: nn.Module, config: PreTrainedConfig, number: int
) -> tuple[tuple[object, ...], _Pattern | None]:
    """Make a layer; what it asked of its number, and how to copy it: None if it can't be."""
    mark = _Number(number)
    held = sys.getrefcount(mark)
    try:
        usual(layer, config, mark)
        pattern = _Pattern.of(layer, config)
    except (_Looked, TypeError):  # TypeError: an operation that `_Number` does not have
        pattern = None
    if pattern is not None:
        pattern.settle(layer, number)
        if sys.getrefcount(mark) == held:  # nobody else has it
            return mark.kind, pattern
    layer.__dict__.clear()
    usual(layer, config, number)
    return (), None


class _Pattern:
    """How a layer is copied: for each module its class, what is shared, which tables are new, who is in it."""

    __slots__ = ("_kinds", "_parts")

    def __init__(self, modules: list[nn.Module], parts: list[_Part]) -> None:
        self._kinds = [type(module) for module in modules]
        self._parts = parts

    @staticmethod
    def of(layer: nn.Module, config: PreTrainedConfig) -> _Pattern | None:
        """Of a layer that was made with a mark; None where something in it is of an unknown kind."""
        modules = list(layer.modules())
        places = {id(module): place for place, module in enumerate(modules)}
        parts = [_Part.of(module, config, places) for module in modules]
        return _Pattern(modules, [part for part in parts if part]) if all(parts) else None

    def settle(self, layer: nn.Module, number: int) -> None:
        """Put the number where the mark was."""
        for module, part in zip(layer.modules(), self._parts, strict=True):
            module.__dict__.update(dict.fromkeys(part.numbered, number))

    def copy_into(self, layer: nn.Module, number: int) -> None:
        """Make `layer`, which is empty, one like the first."""
        modules: list[Any] = [layer, *(object.__new__(kind) for kind in self._kinds[1:])]
        for module, part in zip(modules, self._parts, strict=True):
            own = module.__dict__
            own.update(part.shared)
            for name, kind in part.empty:
                own[name] = kind()
            own["_parameters"] = part.parameters.copy()
            own["_modules"] = {
                name: None if place is None else modules[place] for name, place in part.children
            }
            for name in part.numbered:
                own[name] = number


class _Part:
    """One module of a pattern."""

    __slots__ = ("children", "empty", "numbered", "parameters", "shared")

    def __init__(self, own: dict[str, Any], places: dict[int, int]) -> None:
        self.shared = dict(own)  # in its own order, for those below to take their places in
        self.empty = [(name, type(value)) for name, value in own.items() if _is_empty(value)]
        self.parameters: dict[str, Any] = own["_parameters"].copy()
        self.numbered = [name for name, value in own.items() if type(value) is _Number]
        self.children = [
            (name, None if child is None else places[id(child)]) for name, child in own["_modules"].items()
        ]
        for name in self.numbered:
            self.shared[name] = None

    @staticmethod
    def of(module: nn.Module, config: PreTrainedConfig, places: dict[int, int]) -> _Part | None:
        """None where the module holds something that may be neither shared nor made anew."""
        own = vars(module)
        rest = (value for name, value in own.items() if name not in {"_parameters", "_modules"})
        is_known = type(module).__new__ is object.__new__ and all(
            value is config or type(value) is _Number or _is_empty(value) or _is_plain(value)
            for value in rest
        )
        return _Part(own, places) if is_known else None


def _is_empty(value: object) -> bool:
    return type(value) in _TABLES and not value


def _is_plain(value: Any) -> bool:
    """Whether two layers may hold this same object."""
    if type(value) is tuple:
        return all(map(_is_plain, value))
    if type(value) is partial:
        return not vars(value) and all(map(_is_plain, (value.func, value.args, *value.keywords.values())))
    return type(value) in _PLAIN or (type(value) is FunctionType and value.__closure__ is None)
