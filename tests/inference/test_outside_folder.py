"""The folder an external engine reads: the same tensors, whole files linked, all others copied and sealed."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from inference.outside.folder import header_of, make_folder
from tests.inference.tiny import landed_model, made, stored_tensors
from weights_cache.model.header import read_header
from weights_cache.model.plan import MappedFile, layout


@pytest.fixture
def model():
    return made("llama")


def folder_of(path, revision, landing, mapped=(), fds=(), small=None):
    whole = SimpleNamespace(fd=landing.fd, mapped=mapped, mapped_fds=fds)
    return make_folder(path, revision, whole, small or {})


def stored_file(path, blob):
    path.write_bytes(blob)
    return os.open(path, os.O_RDONLY)


@pytest.mark.parametrize("num_shards", [1, 3])
def test_the_files_hold_the_same_tensors(tmp_path, model, num_shards):
    revision, landing, _ = landed_model(model, num_shards)
    made_folder = folder_of(tmp_path / "f", revision, landing)
    found = {}
    for file in revision.files:
        found |= load_file(made_folder.path / file.path)

    assert found.keys() == stored_tensors(model).keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in stored_tensors(model).items())
    assert made_folder.linked_bytes == 0
    assert made_folder.copied_bytes == sum(file.size for file in revision.files)
    with safe_open(made_folder.path / revision.files[0].path, "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_transformers_loads_it(tmp_path, model):
    revision, landing, _ = landed_model(model)
    config = model.config.to_json_string().encode()
    path = folder_of(tmp_path / "f", revision, landing, small={"config.json": config}).path
    (path / "model.safetensors").symlink_to(path / revision.files[0].path)
    ids = torch.arange(5)[None]

    assert torch.equal(AutoModelForCausalLM.from_pretrained(path)(ids).logits, model(ids).logits)


def test_nobody_can_write_to_a_copied_file(tmp_path, model):
    revision, landing, _ = landed_model(model)
    path = folder_of(tmp_path / "f", revision, landing).path / revision.files[0].path
    fd = os.open(path, os.O_RDWR)

    with pytest.raises(PermissionError):
        os.pwrite(fd, b"x", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    os.close(fd)


def test_a_whole_file_of_the_store_is_linked(tmp_path, model):
    revision, landing, blobs = landed_model(model)
    start = layout(revision.files, revision.tensors).data_starts[0]
    fd = stored_file(tmp_path / "blob", blobs[0])
    made_folder = folder_of(tmp_path / "f", revision, landing, (MappedFile(0, start),), (fd,))
    os.close(fd)

    assert (made_folder.linked_bytes, made_folder.copied_bytes) == (len(blobs[0]), 0)
    assert (made_folder.path / revision.files[0].path).read_bytes() == blobs[0]
    assert (made_folder.path / revision.files[0].path).stat().st_ino == (tmp_path / "blob").stat().st_ino


@pytest.mark.parametrize("fault", ["in a slab", "another header", "another size"])
def test_what_is_not_the_file_as_committed_is_copied(tmp_path, model, fault):
    """A header that nobody verified is never handed on: the file is made anew around the verified bytes."""
    revision, landing, blobs = landed_model(model)
    start, blob = layout(revision.files, revision.tensors).data_starts[0], blobs[0]
    name = revision.tensors[0].name.encode()
    stored, at = {
        "in a slab": (b"\0" * 4_096 + blob, start + 4_096),
        "another header": (blob.replace(name, name[:-1] + b"X", 1), start),
        "another size": (blob + b"\0" * 64, start),
    }[fault]
    fd = stored_file(tmp_path / "blob", stored)
    made_folder = folder_of(tmp_path / "f", revision, landing, (MappedFile(0, at),), (fd,))
    found = load_file(made_folder.path / revision.files[0].path)
    os.close(fd)

    assert made_folder.linked_bytes == 0
    assert all(torch.equal(tensor, found[key]) for key, tensor in stored_tensors(model).items())


def test_our_header_reads_as_the_revision_says(model):
    revision, _, _ = landed_model(model, 2)
    for number, file in enumerate(revision.files):
        head = header_of(revision, number)
        start = layout(revision.files, revision.tensors).data_starts[number]
        header = read_header(head, len(head) + file.size - start)
        own = [each for each in revision.tensors if each.file == number]

        assert len(head) % 64 == 0
        assert {each.name: (each.dtype, each.shape, each.length) for each in header.tensors} == {
            each.name: (each.dtype, tuple(each.shape), each.length) for each in own
        }


def test_nothing_is_left_behind(tmp_path, model):
    revision, landing, _ = landed_model(model)
    before = len(list(Path("/proc/self/fd").iterdir()))
    made_folder = folder_of(tmp_path / "f", revision, landing, small={"a/b.json": b"{}"})
    small = made_folder.path / "a" / "b.json"
    mode = small.stat().st_mode & 0o777
    made_folder.close()
    made_folder.close()

    assert mode == 0o400
    assert not made_folder.path.exists()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
