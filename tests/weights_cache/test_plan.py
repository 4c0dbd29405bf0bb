"""The plan covers every byte once, in pieces of at most 16 MiB, in the order of a forward pass."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evidence import count
from weights_cache.model.plan import Held, evictions, execution_order, extents, layout
from weights_cache.model.revision import MAX_EXTENT_BYTES, FileEntry, TensorEntry

FORWARD = {
    "llama": [
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.2.input_layernorm.weight",
        "model.layers.10.mlp.down_proj.weight",
        "model.norm.weight",
        "lm_head.weight",
    ],
    "mixtral": [
        "model.embed_tokens.weight",
        "model.layers.0.block_sparse_moe.experts.7.w1.weight",
        "model.layers.1.block_sparse_moe.experts.0.w1.weight",
        "model.norm.weight",
        "lm_head.weight",
    ],
    "gpt2 with prefix": ["transformer.wte.weight", "transformer.h.0.attn.bias", "transformer.ln_f.weight"],
    "gpt2 bare": ["wte.weight", "h.0.ln_1.weight", "h.11.mlp.c_fc.weight", "ln_f.bias"],
    "gpt-neox": [
        "gpt_neox.embed_in.weight",
        "gpt_neox.layers.0.attention.dense.weight",
        "gpt_neox.final_layer_norm.weight",
        "embed_out.weight",
    ],
    "bloom": [
        "transformer.word_embeddings_layernorm.weight",
        "transformer.h.0.mlp.dense_h_to_4h.weight",
        "transformer.ln_f.weight",
    ],
    "opt": [
        "model.decoder.embed_positions.weight",
        "model.decoder.layers.0.fc1.weight",
        "model.decoder.final_layer_norm.weight",
    ],
    "bert": [
        "embeddings.LayerNorm.weight",
        "encoder.layer.0.output.LayerNorm.weight",
        "encoder.layer.11.attention.self.query.weight",
        "pooler.dense.weight",
    ],
    "modernbert": [
        "embeddings.norm.weight",
        "layers.0.mlp.Wo.weight",
        "final_norm.weight",
        "head.dense.weight",
    ],
    "mpt": ["transformer.wte.weight", "transformer.blocks.3.ffn.up_proj.weight", "transformer.norm_f.weight"],
    "mamba": ["backbone.embeddings.weight", "backbone.layers.0.mixer.D", "backbone.norm_f.weight"],
    "t5": [
        "shared.weight",
        "encoder.block.5.layer.0.SelfAttention.q.weight",
        "decoder.block.0.layer.2.wo.weight",
    ],
    "multimodal": [
        "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight",
        "language_model.model.layers.0.mlp.up_proj.weight",
        "language_model.lm_head.weight",
    ],
}


@pytest.mark.parametrize("family", FORWARD)
def test_execution_order(family):
    """Whatever the family calls its tensors, sorting by the plan gives the order of its forward pass."""
    names = FORWARD[family]
    shuffled = sorted(names, reverse=True)
    order = dict(zip(shuffled, execution_order(shuffled), strict=True))

    assert sorted(shuffled, key=order.__getitem__) == names


def test_layer_numbers():
    """Layers count from 0; before them is -1, after them their number."""
    names = ["x.h.10.w", "x.h.2.w", "x.wte.weight", "x.ln_f.weight", "something.odd", "x.h.0.w"]

    assert [layer for layer, _ in execution_order(names)] == [2, 1, -1, 3, -1, 0]


def laid_out(lengths, per_file=None):
    """Tensors of these lengths one behind the other, `per_file` to a file, with a 96-byte header each."""
    per_file = per_file or len(lengths) or 1
    tensors, sizes, at = [], [], 96
    for index, (name, length) in enumerate(lengths):
        if index % per_file == 0:
            at = 96
            sizes.append(at)
        tensors.append(TensorEntry(name, "U8", (length,), len(sizes) - 1, at, length))
        at += length
        sizes[-1] = at
    files = tuple(FileEntry(f"m{n}.safetensors", size, "0" * 64, "e") for n, size in enumerate(sizes))
    return files, tuple(tensors)


NAMES = st.sampled_from(
    ["model.embed_tokens", "model.norm", "lm_head", "odd", *(f"model.layers.{n}.w" for n in (0, 1, 2, 10))]
)
SIZES = st.one_of(
    st.integers(0, 5_000),
    st.integers(MAX_EXTENT_BYTES - 2, MAX_EXTENT_BYTES + 2),
    st.integers(0, 5 * MAX_EXTENT_BYTES),
)
MODELS = st.lists(st.tuples(NAMES, SIZES), max_size=30)


@settings(max_examples=count(60, 150))
@given(MODELS, st.integers(1, 8))
def test_every_byte_once(model, per_file):
    """Each byte of each tensor is in one extent that names it; none is empty, too large or out of order."""
    files, tensors = laid_out([(f"{name}.{n}x", size) for n, (name, size) in enumerate(model)], per_file)
    pieces = extents(tensors)
    order = execution_order([tensor.name for tensor in tensors])
    covered = {}
    for piece in pieces:
        assert 0 < piece.length <= MAX_EXTENT_BYTES
        assert {order[index][0] for index in piece.tensors} == {piece.layer}
        assert sum(_overlap(piece, tensors[index]) for index in piece.tensors) == piece.length
        covered.setdefault(piece.file, []).append((piece.offset, piece.offset + piece.length))

    assert sum(piece.length for piece in pieces) == sum(tensor.length for tensor in tensors)
    assert [piece.layer for piece in pieces] == sorted(piece.layer for piece in pieces)
    for file, spans in covered.items():
        spans.sort()
        assert all(ahead[1] == behind[0] for ahead, behind in itertools.pairwise(spans))
        assert (spans[0][0], spans[-1][1]) == (96, files[file].size)


def _overlap(piece, tensor):
    end = min(piece.offset + piece.length, tensor.offset + tensor.length)
    return max(0, end - max(piece.offset, tensor.offset))


def test_small_neighbours_share_an_extent():
    """Consecutive tensors of one layer move in one request; a large one moves in equal slices by itself."""
    _, tensors = laid_out(
        [("h.0.a", 100), ("h.0.b", 200), ("h.0.big", 2 * MAX_EXTENT_BYTES + 1), ("h.0.c", 5), ("h.1.a", 7)]
    )
    found = [(piece.length, piece.layer, piece.tensors) for piece in extents(tensors)]

    slice_bytes = 11_186_176
    rest = 2 * MAX_EXTENT_BYTES + 1 - 2 * slice_bytes
    assert found == [
        (300, 0, (0, 1)),
        (slice_bytes, 0, (2,)),
        (slice_bytes, 0, (2,)),
        (rest, 0, (2,)),
        (5, 0, (3,)),
        (7, 1, (4,)),
    ]


@given(MODELS, st.integers(1, 8))
def test_layout_keeps_files_whole_and_apart(model, per_file):
    """Data sections are contiguous, aligned, and never overlap in the landing."""
    files, tensors = laid_out([(f"{name}.{n}x", size) for n, (name, size) in enumerate(model)], per_file)
    places = layout(files, tensors)
    reached = 0
    for file, entry in enumerate(files):
        start = places.file_starts[file]
        assert start % 64 == 0
        assert start >= reached
        reached = start + entry.size - 96

    assert reached <= places.total_bytes
    assert all(places.place(tensor) + tensor.length <= places.total_bytes for tensor in tensors)


def test_files_without_tensors_take_no_room():
    """A config before the weights moves nothing."""
    config = FileEntry("config.json", 1_000, "0" * 64, "e")
    weights = FileEntry("m.safetensors", 112, "0" * 64, "e")
    places = layout([config, weights], [TensorEntry("w", "U8", (16,), 1, 96, 16)])

    assert places.file_starts == (-1, 0)
    assert places.total_bytes == 64


def test_eviction_takes_the_least_recent():
    """Oldest first, only as many as needed, never a pinned one; None when it cannot be done."""
    held = [Held("b", 40, 2.0, False), Held("a", 40, 1.0, False), Held("old", 10, 0.0, True)]

    assert evictions(held, 10, 100) == ()
    assert evictions(held, 11, 100) == ("a",)
    assert evictions(held, 90, 100) == ("a", "b")
    assert evictions(held, 91, 100) is None


def test_eviction_takes_old_revisions_first():
    """A revision that a newer one of its model has followed goes before models that rest for longer."""
    held = [
        Held("other", 40, 1.0, False, "acme/other"),
        Held("before", 40, 2.0, False, "acme/m"),
        Held("first", 40, 1.5, False, "acme/m"),
        Held("now", 40, 3.0, False, "acme/m"),
    ]

    assert evictions(held, 40, 160) == ("first",)
    assert evictions(held, 80, 160) == ("first", "before")
    assert evictions(held, 120, 160) == ("first", "before", "other")


def test_eviction_keeps_a_pinned_old_revision_and_then_goes_by_use():
    """A newer revision that is in use does not make the older one that is in use go."""
    held = [Held("old", 50, 1.0, True, "acme/m"), Held("new", 50, 2.0, False, "acme/m")]

    assert evictions(held, 50, 100) == ("new",)
    assert evictions(held, 51, 100) is None


HELD = st.lists(st.tuples(st.integers(1, 50), st.floats(0, 9), st.booleans()), max_size=8)


@given(HELD, st.integers(0, 100), st.integers(0, 200))
def test_eviction_rule(entries, need_bytes, cap_bytes):
    """What is chosen is unpinned and suffices; None means that dropping all would not do."""
    held = [Held(str(n), size, used, pinned) for n, (size, used, pinned) in enumerate(entries)]
    chosen = evictions(held, need_bytes, cap_bytes)
    kept = [entry for entry in held if entry.revision_id not in (chosen or ())]

    if chosen is None:
        assert sum(entry.num_bytes for entry in held if entry.pinned) + need_bytes > cap_bytes
    else:
        assert all(entry.pinned <= (entry in kept) for entry in held)
        assert sum(entry.num_bytes for entry in kept) + need_bytes <= cap_bytes or not chosen
