"""Copied layers: what their own class makes of the same number, to the last attribute, for all that share a pass."""

from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import initialization
from transformers.modeling_layers import GradientCheckpointingLayer

from inference.engine.attach.alike import alike_layers
from inference.engine.attach.filling import filled
from inference.engine.classes import class_of, config_of
from inference.engine.model import SLOT_FAMILIES
from tests.inference.tiny import OWN_SIZES, SIZES, config_values, made, stored_tensors

NUM_LAYERS = 9
"""More than one of each type where layers alternate, and numbers that no tiny model has."""
LENGTHS = ("n_layer", "num_layers", "num_hidden_layers")
NEVER_COPIED = frozenset({"qwen2_moe", "qwen3_moe", "smollm3"})
"""Families whose layers count with their number."""


def config_with_layers(family):
    known = OWN_SIZES.get(family, SIZES)
    return config_of(config_values(family, **{name: NUM_LAYERS for name in LENGTHS if name in known}))


def made_empty(model_class, config, *, copied):
    with (
        torch.device("meta"),
        initialization.no_init_weights(),
        alike_layers(model_class, config) if copied else nullcontext(),
    ):
        return model_class(config)


def told(value, names):
    """What there is to compare of an attribute; a module is known by its place in the model."""
    if isinstance(value, torch.Tensor):
        return type(value), value.shape, value.dtype, value.device, value.requires_grad
    if isinstance(value, nn.Module):
        return names.get(id(value), type(value))
    if isinstance(value, dict):
        return type(value), [(name, told(held, names)) for name, held in value.items()]
    if isinstance(value, partial):
        return type(value), value.func, told(value.args, names), told(value.keywords, names)
    if isinstance(value, (list, tuple)):
        return type(value), [told(held, names) for held in value]
    return type(value), value


def attributes(model):
    names = {id(module): name for name, module in model.named_modules()}
    return [
        (name, type(module), [(key, told(value, names)) for key, value in vars(module).items()])
        for name, module in model.named_modules()
    ]


@pytest.mark.parametrize("family", sorted(SLOT_FAMILIES))
def test_a_copy_is_what_its_class_makes_to_the_last_attribute(family):
    config = config_with_layers(family)
    model_class = class_of(config, "generate")
    assert attributes(made_empty(model_class, config, copied=True)) == attributes(
        made_empty(model_class, config, copied=False)
    )


@pytest.mark.parametrize("family", sorted(SLOT_FAMILIES))
def test_copies_share_no_table_and_no_module(family):
    config = config_with_layers(family)
    model = made_empty(class_of(config, "generate"), config, copied=True)
    tables = [
        value
        for module in model.modules()
        for name, value in vars(module).items()
        if type(value) in {dict, set, list} and name.startswith("_")
    ]
    modules = [child for module in model.modules() for child in module.children()]
    assert len({id(table) for table in tables}) == len(tables)
    assert len({id(module) for module in modules}) == len(modules)


@pytest.mark.parametrize("family", sorted(SLOT_FAMILIES))
def test_each_layer_is_made_once_where_it_can_be(family, monkeypatch):
    config = config_with_layers(family)
    model_class = class_of(config, "generate")
    wanted = made_empty(model_class, config, copied=False)
    layers = next(each for each in wanted.modules() if isinstance(each, nn.ModuleList))
    kind, numbers = type(layers[0]), []
    usual = kind.__init__

    def counted(self, config, layer_idx):
        numbers.append(str(type(layer_idx)))  # it may not be kept
        usual(self, config, layer_idx)

    monkeypatch.setattr(kind, "__init__", counted)
    made_empty(model_class, config, copied=True)
    types = len(set(getattr(config, "layer_types", None) or [None]))
    assert len(layers) == NUM_LAYERS
    assert len(numbers) in ({NUM_LAYERS + 1} if family in NEVER_COPIED else {1, types})


def test_classes_and_config_are_as_they_were_after_a_fault():
    config = config_with_layers("qwen2")
    model_class = class_of(config, "generate")
    layers = [each for each in GradientCheckpointingLayer.__subclasses__() if "Qwen2Decoder" in each.__name__]
    before = [each.__init__ for each in layers], list(config.layer_types)
    within = alike_layers(model_class, config)
    within.__enter__()
    assert [each.__init__ for each in layers] != before[0]
    assert within.__exit__(KeyError, KeyError(), None) is False
    assert ([each.__init__ for each in layers], config.layer_types) == before
    assert type(config.layer_types) is list


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt_oss"])
def test_a_filled_model_holds_each_weight_once(family):
    model = made(family)
    config = config_of(model.config.to_dict())
    found = filled(class_of(config, "generate"), config, stored_tensors(model), torch.float32)
    weights = [each for module in found.modules() for each in module._parameters.values() if each is not None]
    tied = 1 if config.tie_word_embeddings else 0
    assert len({id(each) for each in weights}) == len(weights) - tied


class Curious(GradientCheckpointingLayer):
    """A layer that does something with its number, or keeps it or something else where it is not seen."""

    def __init__(self, config, layer_idx):
        super().__init__()
        self.found = config.ask(layer_idx)


class Model(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layers = nn.ModuleList([Curious(config, number) for number in range(4)])


KEPT = []
ASKED = {
    "is it the first": lambda number: number == 0,
    "is it odd": lambda number: number % 2,
    "one of a list": lambda number: [4, 3, 2, 1][number],
    "among some": lambda number: number in (1, 2),
    "among keys": {0: "a"}.get,
    "is it true": bool,
    "its name": lambda number: f"layer {number}",
    "its share": lambda number: 1 - number / 4,
    "a range": lambda number: list(range(number)),
    "a number of it": int,
    "kept in a list": lambda number: [number],
    "kept by a function": lambda number: lambda: number,
    "kept elsewhere": KEPT.append,
    "a list of its own": lambda _: [1],
    "what has no number": lambda number: isinstance(number, str),
}


@pytest.mark.parametrize("question", ASKED)
def test_who_asks_for_more_than_to_keep_its_number_is_never_copied(question):
    def found():
        if question == "kept by a function":
            return [layer.found() for layer in model.layers]
        return [layer.found for layer in model.layers]

    config = SimpleNamespace(ask=ASKED[question])
    KEPT.clear()
    with alike_layers(Model, config):
        model = Model(config)
    assert found() == [ASKED[question](number) for number in range(4)] or question == "kept by a function"
    if question == "kept by a function":
        assert found() == [0, 1, 2, 3]
    assert all(type(number) is int for number in KEPT[1:])
