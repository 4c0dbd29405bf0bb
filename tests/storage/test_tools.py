"""The tools people have, as they have them."""

import os
import shutil
import subprocess
import sys

import pytest

from storage.__main__ import main, prepare
from storage.disk.blobs import lock_folder
from tests.storage.stores import Raw
from tests.storage.test_crash import StoreProcess


@pytest.mark.skipif(shutil.which("aws") is None, reason="the aws cli is not installed")
def test_aws_s3_sync_both_ways(tmp_path):
    model = tmp_path / "model"
    (model / "tokenizer").mkdir(parents=True)
    files = {
        "config.json": b"{}",
        "model.safetensors": os.urandom(18_000_000),
        "tokenizer/vocab ä.txt": b"a\nb",
    }
    for name, data in files.items():
        (model / name).write_bytes(data)
    store = StoreProcess(tmp_path / "store")
    env = os.environ | {
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "store/credentials"),
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
    }

    def aws(*words: str) -> str:
        command = ["aws", "--endpoint-url", store.endpoint.url, *words]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with Raw(store.endpoint) as raw:
        raw.send("PUT", "/models")
    aws("s3", "sync", str(model), "s3://models/acme/m/")
    aws("s3", "sync", "s3://models/acme/m/", str(tmp_path / "back"))
    assert store.stop() == 0

    for name, data in files.items():
        assert (tmp_path / "back" / name).read_bytes() == data


def test_a_second_store_on_a_folder_says_so(tmp_path, monkeypatch, capsys):
    settings, _ = prepare(tmp_path, "127.0.0.1", 0)
    settings.root.mkdir()
    lock = lock_folder(settings.root)
    monkeypatch.setattr(sys, "argv", ["storage", str(tmp_path), "--port", "0"])

    assert main() == 1
    os.close(lock)

    assert "another store" in capsys.readouterr().err


def test_a_store_alone_is_told_what_it_may_on_its_command_line(tmp_path, monkeypatch, capsys):
    """What cannot be meant is said, and nothing is served."""
    secret = tmp_path / "secret"
    secret.write_text("sixteen bytes and more")
    for wrong, words in (
        (["--domain", "S3.example"], "no domain"),
        (["--webhook", "a b", "http://h/", str(secret)], "no webhook id"),
        (["--webhook", "a", "file:///etc", str(secret)], "no http or https address"),
        (["--webhook", "a", "http://h/", str(tmp_path / "none")], "none"),
    ):
        monkeypatch.setattr(sys, "argv", ["storage", str(tmp_path / "s"), "--port", "0", *wrong])
        assert main() == 1
        assert words in capsys.readouterr().err
