"""The plan of a push: the platform's own rules, applied before a byte moves."""

import json
import os
import struct
from pathlib import Path

import pytest

from deploy.models import push
from deploy.models.push import PushPlan, _write_manifest
from regions.push.folder import MAX_LEFT_OUT
from regions.push.manifest import Manifest, ManifestFile, read_manifest
from storage.client.answers import Got, PreconditionFailed, Unreachable, Uploaded

REGIONS = ("iad", "fra")


def _model(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 8)
    (folder / "config.json").write_text(
        json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"})
    )
    (folder / "tokenizer.json").write_text("{}")
    return folder


def test_a_whole_folder_is_planned_with_its_sizes(tmp_path):
    """What will be uploaded, and nothing hidden or of our own making."""
    folder = _model(tmp_path / "m")
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("x")
    (folder / "nearfield-status.json").write_text("{}")

    planned = push.plan(folder, "acme/m", REGIONS)

    assert set(planned.files) == {"config.json", "model.safetensors", "tokenizer.json"}
    assert planned.num_bytes == sum((folder / name).stat().st_size for name in planned.files)
    assert not planned.left_out


def test_what_is_left_out_is_said(tmp_path):
    """A pickle and a script beside good weights stay behind, each with its reason."""
    folder = _model(tmp_path / "m")
    (folder / "pytorch_model.bin").write_bytes(b"x")
    (folder / "model.py").write_text("x")

    planned = push.plan(folder, "acme/m", REGIONS)

    assert set(planned.left_out) == {"pytorch_model.bin", "model.py"}
    assert not set(planned.left_out) & set(planned.files)


def test_what_is_left_out_stays_behind_whatever_its_name_and_number(tmp_path):
    """The list for people is cut short and made printable; files went up that were not in it as they are called."""
    folder = _model(tmp_path / "m")
    kept = set(push.plan(folder, "acme/m", REGIONS).files)
    (folder / "a\nb.txt").write_text("x")
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.txt")).write_text("x")
    for number in range(MAX_LEFT_OUT + 3):
        (folder / f"{number}.png").write_text("x")
    (folder / "model.toml").write_text("idle_timeout_s = 9")

    planned = push.plan(folder, "acme/m", REGIONS)

    assert set(planned.files) == kept | {"model.toml"}
    assert planned.left_out["..."] == "and 5 more files"


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_an_incomplete_folder_is_refused_before_a_byte_moves(tmp_path, missing):
    """The refusal names what is missing and what to do."""
    folder = _model(tmp_path / "m")
    (folder / missing).unlink()

    with pytest.raises(push.PushRefused) as caught:
        push.plan(folder, "acme/m", REGIONS)
    assert caught.value.code
    assert caught.value.next_step


def test_a_folder_around_the_model_is_told_the_command_for_the_model(tmp_path):
    """As examples/tinychat is around its model/: which folder it is, and how to push that one."""
    around = tmp_path / "my model"
    around.mkdir()
    (around / "README.md").write_text("x")
    _model(around / "model")

    with pytest.raises(push.PushRefused, match=r"no config\.json in .* itself, but in its model/") as caught:
        push.plan(around, "acme/m", REGIONS)
    assert caught.value.next_step == f"nearfield push '{around}/model' acme/m"
    (around / "config.json").write_text("{}")
    with pytest.raises(push.PushRefused) as caught:
        push.plan(around, "acme/m", REGIONS)
    assert "model/" not in f"{caught.value}{caught.value.next_step}", "this folder claims to be one itself"


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    """A slip of the finger is told as such."""
    with pytest.raises(push.PushRefused, match="not a folder"):
        push.plan(tmp_path / "none", "acme/m", REGIONS)


def test_a_model_toml_with_an_unknown_region_is_refused(tmp_path):
    """The file in the folder is checked with everything else."""
    folder = _model(tmp_path / "m")
    (folder / "model.toml").write_text('regions = ["sfo"]\n')

    with pytest.raises(push.PushRefused, match="sfo"):
        push.plan(folder, "acme/m", REGIONS)


class Bucket:
    """A bucket in which somebody's manifest appears between our look and our write."""

    def __init__(self, meanwhile):
        self.manifest, self.etag, self.puts = None, 0, 0
        self._meanwhile = meanwhile

    async def list(self, _bucket, _prefix):
        for each in ():
            yield each

    async def put(self, _bucket, _key, body, *, if_none_match, if_match):
        self.puts += 1
        if self.puts == 1:
            self.manifest, self.etag = self._meanwhile, 1
        if if_none_match or if_match != str(self.etag):
            raise PreconditionFailed("PreconditionFailed", "somebody was first", 412)
        self.manifest, self.etag = body, self.etag + 1

    async def get(self, _bucket, _key, *, max_bytes):
        assert len(self.manifest) <= max_bytes
        return Got(self.manifest, str(self.etag), len(self.manifest), {})


@pytest.mark.parametrize(
    ("regions", "theirs", "fine"), [(None, "e", True), (("fra",), "e", True), (None, "o", False)]
)
async def test_of_two_pushes_at_once_the_later_one_may_only_bring_the_same(tmp_path, regions, theirs, fine):
    first = Manifest((ManifestFile("config.json", 1, theirs),), regions, "theirs")
    bucket = Bucket(first.to_json())
    plan = PushPlan("acme/m", tmp_path, {"config.json": 1}, {})
    finish = _write_manifest(bucket, plan, (Uploaded("config.json", 1, "e"),), regions)
    if not fine:
        with pytest.raises(PreconditionFailed):
            await finish
        assert bucket.manifest == first.to_json()
        return

    own = await finish

    assert read_manifest(bucket.manifest) == own
    assert own.push_id != "theirs"


def test_a_push_that_the_network_cut_says_that_it_goes_on():
    with (
        pytest.raises(Unreachable, match="gone; what went up stays, and the same command") as cut,
        push._goes_on(),
    ):
        raise Unreachable("ServiceUnavailable", "gone", 503)
    assert (cut.value.code, cut.value.status) == ("ServiceUnavailable", 503)


def test_a_full_disks_next_step_says_that_already():
    with pytest.raises(Unreachable) as cut, push._goes_on():
        raise Unreachable("InsufficientStorage", "full", 507)
    assert cut.value.message == "full"
