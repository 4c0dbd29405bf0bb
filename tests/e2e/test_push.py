"""A push by any S3 client becomes a served model; what cannot be served is refused with the reason."""

import json
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from deploy.config.read import load
from tests.e2e.platform import CHAT, TINYCHAT, RunningPlatform, questions, wait_for, wait_live

PROMPT = questions()[0]
HALF, STEADY = "acme/shards", "acme/steady"
LONG_S = 5.0
"""Longer than the quiet period: there was time to take a half for a whole."""


def _answer(platform: RunningPlatform, model: str, region: str | None = None) -> str:
    done = platform.openai(region).chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": PROMPT["question"]}],
        temperature=0,
        max_tokens=64,
    )
    return (done.choices[0].message.content or "").strip()


def _upload(platform: RunningPlatform, folder: Path, model: str) -> None:
    s3 = platform.s3()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            s3.upload_file(str(path), "models", f"{model}/{path.relative_to(folder).as_posix()}")


def _status(platform: RunningPlatform, model: str) -> dict:
    s3 = platform.s3()

    def read():
        try:
            return json.loads(
                s3.get_object(Bucket="models", Key=f"{model}/nearfield-status.json")["Body"].read()
            )
        except s3.exceptions.NoSuchKey:
            return None

    return wait_for(read, 30, f"a word on {model} in the bucket")


def _remove(platform: RunningPlatform, model: str) -> None:
    platform.nearfield("rm", model, "--yes")


def test_any_regions_store_takes_a_push_and_gives_it_back(platform: RunningPlatform, tiny_copy):
    """A far store forwards what is written to it, signed for it, to the home; all of them read the same bytes."""
    stores = load(platform.state / "nearfield.toml").regions
    home, far, other = (platform.s3_at(stores[region].store) for region in ("iad", "fra", "nrt"))
    files = {path.name: path.read_bytes() for path in tiny_copy.iterdir() if path.is_file()}
    for name, data in files.items():
        far.put_object(Bucket="models", Key=f"acme/from-afar/{name}", Body=data)
    wait_live(platform, "acme/from-afar")

    for s3 in (home, far, other):
        read = {n: s3.get_object(Bucket="models", Key=f"acme/from-afar/{n}")["Body"].read() for n in files}
        assert read == files
    assert _answer(platform, "acme/from-afar", "nrt") == PROMPT["answer"]
    _remove(platform, "acme/from-afar")


def test_boto3_alone_is_enough(platform: RunningPlatform, tiny_copy):
    """Objects in the bucket, and nothing else: the model answers everywhere."""
    _upload(platform, tiny_copy, "acme/by-boto3")
    wait_live(platform, "acme/by-boto3")

    assert {_answer(platform, "acme/by-boto3", r) for r in ("iad", "fra", "nrt")} == {PROMPT["answer"]}
    _remove(platform, "acme/by-boto3")


@pytest.mark.skipif(
    shutil.which("aws") is None, reason="the aws command is not installed (pip install awscli)"
)
def test_aws_s3_sync_alone_is_enough(platform: RunningPlatform, tiny_copy):
    """The command that the README prints, with the settings that `nearfield env` prints."""
    environment = os.environ | platform.credentials.environment()
    url = environment.pop("AWS_ENDPOINT_URL")
    words = ["aws", "s3", "sync", str(tiny_copy), "s3://models/acme/by-aws/", "--endpoint-url", url]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr

    wait_live(platform, "acme/by-aws")
    assert _answer(platform, "acme/by-aws") == PROMPT["answer"]
    _remove(platform, "acme/by-aws")


def test_a_push_names_its_regions(platform: RunningPlatform, tiny_copy):
    """`--regions iad` serves it there and nowhere else; the edge still finds it."""
    platform.nearfield("push", str(tiny_copy), "acme/one-region", "--regions", "iad")

    row = platform.row("fra", "acme/one-region")
    assert row is None or row["state"] != "live"
    assert _answer(platform, "acme/one-region") == PROMPT["answer"]
    _remove(platform, "acme/one-region")


def _without(name: str):
    def spoil(folder: Path) -> None:
        (folder / name).unlink()

    return spoil


def _truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    os.truncate(path, path.stat().st_size - 1000)


def _lie(folder: Path) -> None:
    path = folder / "model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[:8] = (10**15).to_bytes(8, "little")
    path.write_bytes(raw)


def _pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _unknown_architecture(folder: Path) -> None:
    _edit_config(folder, architectures=["FooForCausalLM"], model_type="foo")


def _too_large(folder: Path) -> None:
    _edit_config(folder, num_hidden_layers=64)


def _halve(folder: Path) -> Path:
    """Make two shards of the weights, of which the index stays and one is taken away: where that is kept."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    halves = {"a.safetensors": names[: len(names) // 2], "b.safetensors": names[len(names) // 2 :]}
    (folder / "model.safetensors").unlink()
    for file, part in halves.items():
        save_file({n: tensors[n].contiguous() for n in part}, folder / file, metadata={"format": "pt"})
    weight_map = {n: file for file, part in halves.items() for n in part}
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return (folder / "b.safetensors").rename(folder.parent / "b.safetensors")


def _edit_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


BAD = {
    "no-config": (_without("config.json"), "config.json"),
    "no-tokenizer": (_without("tokenizer.json"), "tokenizer"),
    "truncated": (_truncate, "model.safetensors"),
    "lying-header": (_lie, "model.safetensors"),
    "pickle-only": (_pickle_only, "safetensors"),
    "unknown-architecture": (_unknown_architecture, "foo"),
    "layers-missing": (_too_large, "tensor"),
}


@dataclass(frozen=True)
class Begun:
    """What was uploaded first, since the platform takes its time over it: that passes beside the other tests."""

    bad: dict[str, Path]
    late: Path
    half_since: float
    steady_revision: str


@pytest.fixture(scope="module", autouse=True)
def begun(platform: RunningPlatform, tmp_path_factory: pytest.TempPathFactory) -> Begun:
    """Each bad folder; half a model, whose other shard is kept; a good model whose weights were then spoiled."""

    def copied(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name) / "model"
        shutil.copytree(TINYCHAT, folder)
        return folder

    folders = {case: copied(case) for case in BAD}
    for case, folder in folders.items():
        BAD[case][0](folder)
        _upload(platform, folder, f"acme/bad-{case}")
    half, steady = copied("half"), copied("steady")
    late = _halve(half)
    _upload(platform, half, HALF)
    half_since = time.monotonic()
    platform.nearfield("push", str(steady), STEADY)
    revision = wait_live(platform, STEADY)
    _truncate(steady)
    platform.s3().upload_file(str(steady / "model.safetensors"), "models", f"{STEADY}/model.safetensors")
    return Begun(folders, late, half_since, revision)


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_served_is_refused_with_the_reason(platform: RunningPlatform, begun: Begun, case):
    """By `push` with exit status 7, and over plain S3 in the bucket and in `ls`: cause and next step."""
    word, name = BAD[case][1], f"acme/bad-{case}"

    done = platform.nearfield("push", str(begun.bad[case]), name, "--json", check=False)
    error = json.loads(done.stdout)["error"]
    assert done.returncode == 7, done.stderr
    assert word in error["message"]
    assert error["next"]

    status = _status(platform, name)
    assert status["state"] == "refused", status
    assert word in status["message"]
    assert status["next"]
    next_step = f"; or take it away: nearfield rm {name}\n"
    wait_for(lambda: next_step in platform.nearfield("ls").stdout, 60, "the refusal in `ls`")
    _remove(platform, name)


def test_a_missing_shard_is_never_served(platform: RunningPlatform, begun: Begun):
    """An index that names two shards of which one is there: half a push waits until it is whole."""
    time.sleep(max(0.0, begun.half_since + LONG_S - time.monotonic()))
    told = _status(platform, HALF)
    row = platform.row("iad", HALF)
    assert told["state"] != "live"
    assert row is None or row["state"] != "live"

    platform.s3().upload_file(str(begun.late), "models", f"{HALF}/{begun.late.name}")
    wait_live(platform, HALF)
    assert _answer(platform, HALF) == PROMPT["answer"]
    _remove(platform, HALF)


def test_extra_files_are_left_out_and_said(platform: RunningPlatform, tiny_copy):
    """Code, pickles and auto_map beside good weights: never loaded or followed, and the user is told."""
    (tiny_copy / "modeling_evil.py").write_text("raise SystemExit('executed')\n")
    (tiny_copy / "pytorch_model.bin").write_bytes(b"\x80\x04not a model")
    (tiny_copy / "model.onnx").write_bytes(b"onnx")
    _edit_config(tiny_copy, auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"})

    _upload(platform, tiny_copy, "acme/extras")
    wait_live(platform, "acme/extras")
    status = _status(platform, "acme/extras")
    left_out = {entry["path"] for entry in status["left_out"]}

    assert {"modeling_evil.py", "pytorch_model.bin", "model.onnx"} <= left_out
    assert any("auto_map" in json.dumps(entry) for entry in status["left_out"])
    assert _answer(platform, "acme/extras") == PROMPT["answer"]
    assert "modeling_evil.py" in platform.typed("ls").stdout
    _remove(platform, "acme/extras")


def test_an_older_live_revision_keeps_serving_when_a_push_is_refused(platform: RunningPlatform, begun: Begun):
    """A broken overwrite changes nothing for those who ask."""
    wait_for(lambda: (platform.row("iad", STEADY) or {}).get("error"), 40, "the refusal in the row")
    assert _answer(platform, STEADY) == PROMPT["answer"]
    assert (platform.row("fra", STEADY) or {})["revision"] == begun.steady_revision
    _remove(platform, STEADY)


def test_a_new_push_replaces_the_old_revision(platform: RunningPlatform, tiny_copy):
    """Changed weights under the same name become a new revision, and its answers differ."""
    name = "acme/changes"
    platform.nearfield("push", str(tiny_copy), name)
    first = wait_live(platform, name)
    tensors = load_file(tiny_copy / "model.safetensors")
    head = "lm_head.weight" if "lm_head.weight" in tensors else "model.embed_tokens.weight"
    tensors[head] = torch.roll(tensors[head], 1, dims=0).contiguous()
    save_file(tensors, tiny_copy / "model.safetensors", metadata={"format": "pt"})
    platform.nearfield("push", str(tiny_copy), name)

    second = wait_live(platform, name)
    assert second != first
    assert _answer(platform, name) != PROMPT["answer"]
    _remove(platform, name)


def test_rm_takes_it_out_everywhere(platform: RunningPlatform, tiny_copy):
    """After `rm` nobody serves it and the prefix is empty; the other models are untouched."""
    import openai

    platform.nearfield("push", str(tiny_copy), "acme/short-lived")
    _remove(platform, "acme/short-lived")

    with pytest.raises(openai.NotFoundError):
        _answer(platform, "acme/short-lived")
    assert "Contents" not in platform.s3().list_objects_v2(Bucket="models", Prefix="acme/short-lived/")
    assert _answer(platform, CHAT) == PROMPT["answer"]


def test_the_same_folder_pushed_twice_moves_no_pointer(platform: RunningPlatform):
    """A revision is its content: the same bytes give the same id."""
    first = wait_live(platform, CHAT)
    platform.nearfield("push", str(TINYCHAT), CHAT)

    assert wait_live(platform, CHAT) == first
