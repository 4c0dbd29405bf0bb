"""Every shape of push, complete and not, and what is said about it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regions.push.commit import Bytes, Complete, Patience, Refused, Waiting, judge, wanted
from regions.push.folder import Listed, left_out
from regions.push.manifest import Manifest, ManifestFile
from tests.regions.folders import INDEX, REGIONS, etag_of, listed, safetensors, sharded, whole
from weights_cache.model.header import HeaderError, read_header
from weights_cache.model.revision import LeftOut

LONG_S = 10_000.0
PATIENCE = Patience(quiet_s=2.0, grace_s=30.0, stale_s=60.0)


def seen(files):
    """What ingest reads of a prefix."""
    small, weights = wanted(listed(files))
    return Bytes(
        {each.path: files[each.path] for each in small},
        {each.path: header(files[each.path]) for each in weights},
    )


def header(data):
    try:
        return read_header(data, len(data))
    except HeaderError as error:
        return error


def verdict(files, *, quiet_for_s=LONG_S, unfinished=()):
    return judge(
        listed(files),
        seen(files),
        quiet_for_s=quiet_for_s,
        patience=PATIENCE,
        all_regions=REGIONS,
        unfinished=unfinished,
    )


def without(files, *paths):
    return {path: data for path, data in files.items() if path not in paths}


def manifest_of(files, regions=None):
    entries = tuple(ManifestFile(path, len(data), etag_of(data)) for path, data in files.items())
    return {**files, "manifest.json": Manifest(entries, regions, "p1").to_json()}


def shards_of(files):
    return sorted(path for path in files if path.startswith("model-"))


# ---- complete


@pytest.mark.parametrize("files", [whole(), sharded(), sharded(5)], ids=["single", "two", "five"])
def test_a_whole_folder_is_complete_once_it_has_been_quiet(files):
    early, late = verdict(files, quiet_for_s=1.9), verdict(files, quiet_for_s=2.0)

    assert isinstance(early, Waiting)
    assert early.retry_s == pytest.approx(0.1)
    assert isinstance(late, Complete)
    assert {each.path for each in late.files} == set(files)
    assert [each.path for each, _ in late.weights] == sorted(p for p in files if p.endswith(".safetensors"))
    assert late.left_out == ()


@pytest.mark.parametrize("files", [whole(), sharded()], ids=["single", "shards"])
def test_a_manifest_makes_it_complete_at_once(files):
    assert isinstance(verdict(manifest_of(files), quiet_for_s=0.0), Complete)


def test_an_empty_prefix_waits_for_a_change():
    assert verdict({}) == Waiting("nothing has been pushed", None)
    assert verdict({"nearfield-status.json": b"{}", "old/": b""}) == Waiting("nothing has been pushed", None)


def test_our_status_object_is_no_input_and_not_reported():
    found = verdict({**whole(), "nearfield-status.json": b"nonsense"})

    assert isinstance(found, Complete)
    assert found.left_out == ()


def test_model_toml_becomes_the_spec_and_the_manifest_regions_go_first():
    files = {**whole(), "model.toml": b'regions = ["fra"]\nidle_timeout_s = 9'}

    assert verdict(files).spec.regions == ("fra",)
    assert verdict(files).spec.idle_timeout_s == 9.0
    assert verdict(manifest_of(files, ("iad", "nrt"))).regions == ("iad", "nrt")
    assert verdict(files).regions is None
    assert verdict(manifest_of(files, ("mars",))).code == "bad_model_toml"


# ---- refused, with a next step


def lying(name="model.safetensors", **kwargs):
    return {**whole(), name: safetensors(**kwargs)}


TORCH = b"PK\x03\x04" + b"\0" * 50
GOOD = safetensors()
REFUSALS = {
    "missing_config": without(whole(), "config.json"),
    "missing_tokenizer": without(whole(), "tokenizer.json"),
    "missing_weights": without(whole(), "model.safetensors"),
    "weights_not_safetensors": {**without(whole(), "model.safetensors"), "pytorch_model.bin": TORCH},
    "adapter_only": {
        **without(whole(), "model.safetensors"),
        "adapter_model.safetensors": GOOD,
        "adapter_config.json": b"{}",
    },
    "missing_shard": without(sharded(), "model-00002-of-00002.safetensors"),
    "missing_index": without(sharded(), INDEX),
    "ambiguous_weights": {**sharded(), "model.safetensors": GOOD},
    "index_mismatch": {**sharded(), "model-00002-of-00002.safetensors": safetensors({"other": 4})},
    "duplicate_tensor": {
        **sharded(),
        "model-00002-of-00002.safetensors": safetensors(
            {"model.layers.0.weight": 4, "model.layers.1.weight": 4}
        ),
    },
    "bad_index": {**sharded(), INDEX: b'{"weight_map": {"a": "../../etc/passwd"}}'},
    "bad_config": {**whole(), "config.json": b"[1, 2"},
    "bad_model_toml": {**whole(), "model.toml": b"min_replica = 1"},
    "header_truncated": {**whole(), "model.safetensors": GOOD[:20]},
    "size_mismatch": {**whole(), "model.safetensors": GOOD[:-1]},
    "header_not_json": lying(header=b"{]"),
    "header_too_large": {**whole(), "model.safetensors": b"\xff" * 8 + b"{}" * 30},
    "bad_tensor_name": lying(tensors={"../../etc/x": 4}),
    "not_safetensors": {**whole(), "model.safetensors": TORCH},
    "lfs_pointer": {
        **whole(),
        "model.safetensors": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    },
    "no_tensors": lying(tensors={}),
}
MAY_PASS = {
    "missing_config",
    "missing_tokenizer",
    "missing_weights",
    "weights_not_safetensors",
    "adapter_only",
    "missing_shard",
    "missing_index",
    "ambiguous_weights",
    "index_mismatch",
    "duplicate_tensor",
}


@pytest.mark.parametrize("code", REFUSALS)
def test_bad_input_is_refused_with_the_reason_and_the_next_step(code):
    found = verdict(REFUSALS[code])

    assert isinstance(found, Refused)
    assert found.code == code
    assert found.message
    assert found.next_step


@pytest.mark.parametrize("code", REFUSALS)
def test_what_may_still_arrive_is_waited_for_and_the_rest_is_refused_when_quiet(code):
    wait_s = PATIENCE.grace_s if code in MAY_PASS else PATIENCE.quiet_s

    waiting = verdict(REFUSALS[code], quiet_for_s=wait_s - 0.5)
    assert isinstance(waiting, Waiting)
    assert waiting.retry_s == pytest.approx(0.5)
    assert verdict(REFUSALS[code], quiet_for_s=wait_s).code == code


@pytest.mark.parametrize("code", REFUSALS)
def test_a_manifest_has_bad_input_refused_at_once(code):
    assert verdict(manifest_of(REFUSALS[code]), quiet_for_s=0.0).code == code


@pytest.mark.parametrize(
    "weights",
    ["pytorch_model.bin", "model.pt", "model.pkl", "model.gguf", "model.ckpt", "tf_model.h5", "m.onnx"],
)
def test_weights_in_any_other_form_are_refused_and_named(weights):
    found = verdict({**without(whole(), "model.safetensors"), weights: TORCH})

    assert found.code == "weights_not_safetensors"
    assert weights in found.message
    assert "save_pretrained" in found.next_step


def test_a_message_names_the_missing_shards_but_not_thousands():
    files = without(sharded(40), *shards_of(sharded(40))[1:])

    found = verdict(files)
    assert "model-00002-of-00040" in found.message
    assert "36 more" in found.message


def test_too_many_or_too_large_files_are_refused_before_anything_is_read():
    many = [*listed(whole()), *(Listed(f"junk/{n}", 1, "e") for n in range(5_000))]
    huge = [
        each if each.path != "config.json" else Listed("config.json", 1 << 40, "e")
        for each in listed(whole())
    ]

    assert (
        judge(many, seen(whole()), quiet_for_s=LONG_S, patience=PATIENCE, all_regions=REGIONS).code
        == "too_many_files"
    )
    assert "config.json" not in {each.path for each in wanted(huge)[0]}
    assert (
        judge(huge, seen(whole()), quiet_for_s=LONG_S, patience=PATIENCE, all_regions=REGIONS).code
        == "file_too_large"
    )


# ---- half a push, stale objects


def test_half_a_push_is_never_complete():
    files = manifest_of(sharded(3))
    for missing in without(files, "manifest.json"):
        half = without(files, missing, "manifest.json")
        if missing == INDEX or missing in shards_of(files) or missing in {"config.json", "tokenizer.json"}:
            assert not isinstance(verdict(half, quiet_for_s=PATIENCE.grace_s - 1), Complete), missing
            assert isinstance(verdict(half), Refused), missing


@given(st.sets(st.sampled_from(sorted(sharded(3)))), st.booleans())
def test_any_subset_of_a_push_is_complete_only_when_nothing_of_it_is_missing(kept, with_manifest):
    files = {path: data for path, data in sharded(3).items() if path in kept}
    whole_push = manifest_of(sharded(3))
    pushed = {**files, "manifest.json": whole_push["manifest.json"]} if with_manifest else files

    assert isinstance(verdict(pushed), Complete) == (files == sharded(3))


def test_an_unfinished_upload_holds_the_commit_back():
    waiting = verdict(sharded(), unfinished=("model-00002-of-00002.safetensors",))

    assert isinstance(waiting, Waiting)
    assert "model-00002-of-00002" in waiting.reason


def test_an_unfinished_upload_of_the_next_push_does_not_hold_back_what_a_manifest_says_is_whole():
    assert isinstance(verdict(manifest_of(sharded()), unfinished=("x",), quiet_for_s=0.0), Complete)


def overwritten(*names):
    """A push with a manifest, some of whose files were then overwritten by another tool."""
    newer = {name: data for name, data in sharded(fill=b"\x02").items() if name in names}
    return {**manifest_of(sharded(fill=b"\x01")), **newer}


def test_a_stale_manifest_makes_everything_wait_longer_and_is_then_ignored():
    files = overwritten(*shards_of(sharded()))

    assert isinstance(verdict(files, quiet_for_s=PATIENCE.stale_s - 1), Waiting)
    assert isinstance(verdict(files, quiet_for_s=PATIENCE.stale_s), Complete)


def test_a_small_file_may_be_replaced_under_a_manifest():
    files = {**manifest_of(sharded()), "tokenizer.json": b'{"version":"2.0"}'}

    assert isinstance(verdict(files), Complete)


def test_two_interleaved_pushes_are_never_served_mixed():
    files = overwritten(shards_of(sharded())[0])

    assert isinstance(verdict(files, quiet_for_s=PATIENCE.stale_s - 1), Waiting)
    assert verdict(files).code == "mixed_push"


def test_a_users_own_manifest_json_is_ignored():
    files = {**whole(), "manifest.json": b'{"name": "my web app"}'}

    assert isinstance(verdict(files, quiet_for_s=PATIENCE.quiet_s), Complete)


@pytest.mark.parametrize(
    "damage", [b'{"schema":"nearfield.manifest/1"}', b'{"schema":"nearfield.manifest/1","files":']
)
def test_a_broken_manifest_of_ours_is_waited_out_like_a_stale_one(damage):
    files = {**whole(), "manifest.json": damage}

    assert isinstance(verdict(files, quiet_for_s=PATIENCE.quiet_s), Waiting)
    assert isinstance(verdict(files, quiet_for_s=PATIENCE.stale_s), Complete)


def test_a_stale_index_that_names_none_of_the_files_is_refused_not_guessed_around():
    stale = {**whole(), INDEX: sharded()[INDEX]}

    assert isinstance(verdict(stale, quiet_for_s=PATIENCE.grace_s - 1), Waiting)
    assert verdict(stale).code == "missing_shard"
    assert "older push" in verdict(stale).next_step


# ---- extra files


def test_extra_files_are_left_out_and_told_with_reasons():
    extra = {
        "pytorch_model.bin": TORCH,
        "modeling_custom.py": b"import os; os.abort()",
        "onnx/model.onnx": b"x",
        "model.tar.gz": b"x",
        "README.md": b"# hi",
        "original/consolidated.safetensors": GOOD,
        "consolidated.safetensors": GOOD,
        "config.json": json.dumps(
            {"model_type": "llama", "auto_map": {"AutoModel": "modeling_custom.M"}}
        ).encode(),
    }

    found = verdict({**whole(), **extra})
    assert isinstance(found, Complete)
    assert {each.path for each in found.files} == {"config.json", "tokenizer.json", "model.safetensors"}
    reasons = {each.path: each.reason for each in found.left_out}
    assert set(reasons) == {*(set(extra) - {"config.json"}), "config.json: auto_map"}
    assert "run code" in reasons["pytorch_model.bin"]
    assert "ever run" in reasons["modeling_custom.py"]
    assert "unpacked" in reasons["model.tar.gz"]
    assert "never followed" in reasons["config.json: auto_map"]
    assert reasons["README.md"] == "not needed to serve the model"


def test_files_that_a_manifest_does_not_name_are_told_and_left_out():
    files = {**manifest_of(whole()), "older.py": b"", "model-00001-of-00002.safetensors": GOOD}

    found = verdict(files)
    assert isinstance(found, Complete)
    assert {each.path for each in found.left_out} == {"older.py", "model-00001-of-00002.safetensors"}
    assert {each.path for each in found.files} == set(whole())


def test_a_sentence_embedding_folder_keeps_its_pooling():
    files = {
        **whole(),
        "modules.json": b"[]",
        "1_Pooling/config.json": b"{}",
        "sentence_bert_config.json": b"{}",
    }

    assert {each.path for each in verdict(files).files} == set(files)


def test_a_path_is_told_once_with_its_first_reason():
    told = left_out([Listed("x.py", 1, "e")], (LeftOut("x.py", "first"), LeftOut("x.py", "second")))

    assert told == (LeftOut("x.py", "first"),)


def test_the_list_of_left_out_files_is_bounded_and_says_how_many_more():
    found = verdict({**whole(), **{f"docs/{n}.md": b"" for n in range(1_000)}, "z.py": b""})

    assert len(found.left_out) == 201
    assert found.left_out[0].path == "z.py"
    assert "801 more" in found.left_out[-1].reason


@given(
    st.dictionaries(
        st.sampled_from(["config.json", INDEX, "model.toml", "manifest.json", "model.safetensors"]),
        st.binary(max_size=200),
    )
)
def test_no_bytes_make_judge_raise(damage):
    files = {**sharded(), **damage}

    assert isinstance(verdict(files), Complete | Refused | Waiting)


@pytest.mark.parametrize(("engines", "code"), [(None, None), (("vllm",), None), ((), "bad_model_toml")])
def test_a_named_engine_is_one_of_the_operator_s(engines, code):
    """`nearfield push` does not know them (None); the region does, and refuses what nobody defined."""
    files = {**whole(), "model.toml": b'engine = "vllm"'}
    found = judge(
        listed(files),
        seen(files),
        quiet_for_s=LONG_S,
        patience=PATIENCE,
        all_regions=REGIONS,
        engines=engines,
    )

    assert getattr(found, "code", None) == code
