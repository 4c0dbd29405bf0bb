"""A revision is one value with one byte form, and nothing that is not a revision is read as one."""

import json
from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weights_cache.model.revision import (
    MAX_REVISION_BYTES,
    Extent,
    FileEntry,
    LeftOut,
    ModelFacts,
    Revision,
    RevisionError,
    Spec,
    TensorEntry,
    canonical_json,
)

FACTS = ModelFacts(
    kind="generate",
    architecture="LlamaForCausalLM",
    model_type="llama",
    dtype="float32",
    num_params=48,
    num_layers=1,
    max_len=128,
    vocab_size=8,
    kv_bytes_per_token=64,
    weight_bytes=192,
    eos_token_ids=(2, 3),
    has_chat_template=True,
)


def revision(**changes):
    """Two tensors of one weight file, in two extents, and a config."""
    values = {
        "model": "acme/tiny",
        "files": (
            FileEntry("config.json", 2, "1" * 64, "e1"),
            FileEntry("model.safetensors", 300, "2" * 64, "e2"),
        ),
        "tensors": (
            TensorEntry("model.embed_tokens.weight", "F32", (8, 4), 1, 108, 128),
            TensorEntry("model.layers.0.mlp.weight", "F32", (4, 4), 1, 236, 64),
        ),
        "extents": (
            Extent(1, 108, 128, "a" * 16, "b" * 64, -1, (0,)),
            Extent(1, 236, 64, "c" * 16, "d" * 64, 0, (1,)),
        ),
        "facts": FACTS,
        "spec": Spec(regions=("iad", "fra"), idle_timeout_s=30.0),
        "left_out": (LeftOut("train.py", "code is never part of a model"),),
    }
    return Revision(**(values | changes))


def test_round_trip_keeps_value_and_id():
    """What is written is read back equal, with the same id and the same bytes."""
    first = revision()
    again = Revision.from_json(first.to_json())

    assert again == first
    assert again.id == first.id
    assert len(first.id) == 64
    assert again.to_json() == first.to_json()


def test_json_is_canonical():
    """Sorted keys, no spaces, non-ASCII as it is: one value has one byte form."""
    data = revision(left_out=(LeftOut("é.py", "code"),)).to_json()

    assert data == canonical_json(json.loads(data))
    assert b": " not in data
    assert "é".encode() in data


def test_id_follows_every_part():
    """Any change of content is another revision."""
    first = revision()

    assert revision(model="acme/other").id != first.id
    assert revision(spec=Spec()).id != first.id
    assert revision(facts=replace(FACTS, max_len=64)).id != first.id


def test_spec_number_has_one_form():
    """30 and 30.0 seconds are the same wish and the same id."""
    assert revision(spec=Spec(idle_timeout_s=30)).id == revision(spec=Spec(idle_timeout_s=30.0)).id


def test_frozen():
    """Nobody changes a revision after it has its id."""
    with pytest.raises(FrozenInstanceError):
        revision().model = "acme/evil"


def test_facts_travel_alone():
    """`POST /inspect` answers with facts and nothing else."""
    assert ModelFacts.from_value(json.loads(canonical_json(FACTS.as_value()))) == FACTS


def _changed(change):
    value = json.loads(revision().to_json())
    change(value)
    return json.dumps(value).encode()


HOSTILE = {
    "unknown field": lambda v: v.update(extra=1),
    "missing field": lambda v: v.pop("facts"),
    "other schema": lambda v: v.update(schema="nearfield.revision/2"),
    "model name": lambda v: v.update(model="../etc"),
    "bool as int": lambda v: v["files"][0].update(size=True),
    "float as int": lambda v: v["files"][0].update(size=2.0),
    "negative size": lambda v: v["files"][0].update(size=-1),
    "huge size": lambda v: v["files"][0].update(size=2**60),
    "path upwards": lambda v: v["files"][0].update(path="../x"),
    "absolute path": lambda v: v["files"][0].update(path="/x"),
    "control character": lambda v: v["files"][0].update(etag="a\nb"),
    "short digest": lambda v: v["files"][0].update(blake3="12"),
    "upper-case digest": lambda v: v["files"][0].update(blake3="A" * 64),
    "same path twice": lambda v: v["files"][0].update(path="model.safetensors"),
    "same tensor twice": lambda v: v["tensors"][0].update(name="model.layers.0.mlp.weight"),
    "tensor in no file": lambda v: v["tensors"][0].update(file=7),
    "tensor past the end": lambda v: v["files"][1].update(size=299),
    "empty tensor past the end": lambda v: v["tensors"].append(
        {"name": "none", "dtype": "F32", "shape": [0], "file": 0, "offset": 3, "length": 0}
    ),
    "length is not shape": lambda v: v["tensors"][0].update(shape=[8, 5]),
    "unknown dtype": lambda v: v["tensors"][0].update(dtype="F12"),
    "nine dimensions": lambda v: v["tensors"][0].update(shape=[1] * 7 + [8, 4]),
    "empty extent": lambda v: v["extents"][0].update(length=0),
    "large extent": lambda v: v["extents"][0].update(length=(16 << 20) + 1),
    "extent in no file": lambda v: v["extents"][0].update(file=7),
    "extent past the end": lambda v: v["extents"][1].update(offset=250),
    "gap": lambda v: v["extents"][0].update(length=127),
    "doubled extent": lambda v: v["extents"].append(v["extents"][1]),
    "lost extent": lambda v: v["extents"].pop(),
    "out of order": lambda v: v["extents"].reverse(),
    "extent of a stranger": lambda v: v["extents"][0].update(tensors=[1]),
    "tensor twice in one extent": lambda v: v["extents"][0].update(tensors=[0, 0]),
    "tensor index": lambda v: v["extents"][0].update(tensors=[9]),
    "wrong kind": lambda v: v["facts"].update(kind="classify"),
    "text as bool": lambda v: v["facts"].update(has_chat_template="yes"),
    "engine with a path": lambda v: v["spec"].update(engine="../sh"),
    "list for object": lambda v: v.update(spec=[]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_strict(name):
    """One thing out of place, anywhere, and it is not a revision."""
    with pytest.raises(RevisionError):
        Revision.from_json(_changed(HOSTILE[name]))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"\xff",
        b"NaN",
        b'{"a":1,"a":2}',
        b"[" * 100_000,
        b"9" * 5_000,
        b'{"schema":' + b"1" * 400 + b"}",
        b'"\\ud800"',
    ],
)
def test_bytes_that_are_no_revision(data):
    """Bad bytes are one error of ours, whatever they do to a JSON parser."""
    with pytest.raises(RevisionError):
        Revision.from_json(data)


def test_size_is_bounded():
    """An oversized object is refused before it is parsed."""
    with pytest.raises(RevisionError, match="at most"):
        Revision.from_json(b" " * (MAX_REVISION_BYTES + 1))


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data):
    """No bytes raise anything but RevisionError."""
    with pytest.raises(RevisionError):
        Revision.from_json(data)


@given(st.data())
def test_mutated_revision_is_equal_or_refused(data):
    """With one byte changed it is refused or is another revision, never the same id for another value."""
    original = revision().to_json()
    place = data.draw(st.integers(0, len(original) - 1))
    mutated = bytearray(original)
    mutated[place] = data.draw(st.integers(0, 255))
    try:
        found = Revision.from_json(bytes(mutated))
    except RevisionError:
        return

    assert (found.id == revision().id) == (found == revision())
