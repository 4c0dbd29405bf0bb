"""The clients people have, as they have them: each takes a model's folder into the store and out again."""

import asyncio
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
from aiobotocore.session import get_session
from boto3.s3.transfer import TransferConfig

from bench.stores.alone import crc64_header
from storage.__main__ import main, prepare
from storage.client.sdk import Endpoint, url_path
from storage.disk.blobs import lock_folder
from storage.http.bodyplan import OWN_ETAG_BYTES
from tests.storage.stores import Raw
from tests.storage.test_crash import StoreProcess

MIB = 1024 * 1024
BUCKET, PREFIX = "models", "acme/m/"
PART_BYTES = 5 * MIB  # the least that S3 takes


@dataclass(frozen=True)
class Scratch:
    """Where a client works: the store, and a folder for settings of its own."""

    store: Endpoint
    folder: Path

    def run(self, *words, **settings):
        """A command with nobody's settings but these."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RCLONE_"))}
        done = subprocess.run(words, env=ours | settings, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def keys(self):
        return {"aws_access_key_id": self.store.access_key, "aws_secret_access_key": self.store.secret}

    def sdk(self):
        return {"endpoint_url": self.store.url, "region_name": "us-east-1"} | self.keys()


class Aws:
    """`aws s3 sync`."""

    needs = "aws"

    def up(self, scratch, folder):
        self._sync(scratch, str(folder), f"s3://{BUCKET}/{PREFIX}")

    def down(self, scratch, folder):
        self._sync(scratch, f"s3://{BUCKET}/{PREFIX}", str(folder))

    def _sync(self, scratch, start, end):
        settings = {name.upper(): value for name, value in scratch.keys().items()}
        settings |= {"AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
        settings |= {"AWS_CONFIG_FILE": str(scratch.folder / "none")}
        words = ("aws", "--endpoint-url", scratch.store.url, "s3", "sync", "--delete", start, end)
        scratch.run(*words, **settings)


class Rclone:
    """`rclone sync`, by checksum: it reads the MD5 of a file in parts from what it wrote beside it."""

    needs = "rclone"

    def up(self, scratch, folder):
        self._sync(scratch, str(folder), f"nearfield:{BUCKET}/{PREFIX}")

    def down(self, scratch, folder):
        self._sync(scratch, f"nearfield:{BUCKET}/{PREFIX}", str(folder))
        self._run(scratch, "check", f"nearfield:{BUCKET}/{PREFIX}", str(folder))

    def _sync(self, scratch, start, end):
        self._run(scratch, "sync", "--checksum", start, end)

    def _run(self, scratch, *words):
        store = scratch.store
        remote = {"type": "s3", "provider": "Other", "endpoint": store.url, "region": "us-east-1"}
        remote |= {"access_key_id": store.access_key, "secret_access_key": store.secret}
        remote |= {"upload_cutoff": "8Mi", "chunk_size": "5Mi"}
        settings = {f"RCLONE_CONFIG_NEARFIELD_{name.upper()}": value for name, value in remote.items()}
        scratch.run("rclone", "--config", str(scratch.folder / "none"), *words, **settings)


class Boto3:
    """boto3's transfers: `upload_file` and `download_file`, in parts and by ranges above `PART_BYTES`."""

    needs = None

    def up(self, scratch, folder):
        s3 = boto3.client("s3", **scratch.sdk())
        for path in files_in(folder):
            key = PREFIX + path.relative_to(folder).as_posix()
            s3.upload_file(str(path), BUCKET, key, Config=self._transfers())

    def down(self, scratch, folder):
        s3 = boto3.client("s3", **scratch.sdk())
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=PREFIX):
            for row in page["Contents"]:
                path = place(folder, row["Key"])
                s3.download_file(BUCKET, row["Key"], str(path), Config=self._transfers())

    def _transfers(self):
        sizes = {"multipart_threshold": PART_BYTES, "multipart_chunksize": PART_BYTES}
        return TransferConfig(preferred_transfer_client="classic", **sizes)


class Aiobotocore:
    """aiobotocore: several calls at once over one client, parts out of order."""

    needs = None

    def up(self, scratch, folder):
        asyncio.run(self._up(scratch, folder))

    def down(self, scratch, folder):
        asyncio.run(self._down(scratch, folder))

    async def _up(self, scratch, folder):
        async with get_session().create_client("s3", **scratch.sdk()) as s3:
            await asyncio.gather(
                *(
                    self._put(s3, PREFIX + path.relative_to(folder).as_posix(), path.read_bytes())
                    for path in files_in(folder)
                )
            )

    async def _put(self, s3, key, data):
        if len(data) <= PART_BYTES:
            await s3.put_object(Bucket=BUCKET, Key=key, Body=data)
            return
        upload = {"Bucket": BUCKET, "Key": key}
        upload["UploadId"] = (await s3.create_multipart_upload(Bucket=BUCKET, Key=key))["UploadId"]

        async def part(number):
            body = data[(number - 1) * PART_BYTES : number * PART_BYTES]
            answer = await s3.upload_part(**upload, PartNumber=number, Body=body)
            return {"PartNumber": number, "ETag": answer["ETag"]}

        numbers = range(-(-len(data) // PART_BYTES), 0, -1)
        parts = sorted(await asyncio.gather(*map(part, numbers)), key=lambda each: each["PartNumber"])
        await s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})

    async def _down(self, scratch, folder):
        async with get_session().create_client("s3", **scratch.sdk()) as s3:
            pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=PREFIX)
            keys = [row["Key"] async for page in pages for row in page["Contents"]]
            await asyncio.gather(*(self._get(s3, key, place(folder, key)) for key in keys))

    async def _get(self, s3, key, path):
        answer = await s3.get_object(Bucket=BUCKET, Key=key)
        async with answer["Body"] as body:
            with path.open("wb") as file:
                async for chunk in body.iter_chunks(MIB):
                    file.write(chunk)


CLIENTS = (Aws(), Rclone(), Boto3(), Aiobotocore())


def model_files():
    return {
        "config.json": b"{}",
        "empty.txt": b"",
        "model.safetensors": os.urandom(18_000_000),
        "tokenizer/vocab ä+1.txt": b"a\nb",
        "tokenizer/exact.bin": os.urandom(2 * PART_BYTES),
    }


def files_in(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def place(folder, key):
    path = folder / key.removeprefix(PREFIX)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files_in(folder)}


@pytest.fixture
def scratch(tmp_path):
    store = StoreProcess(tmp_path / "store")
    with Raw(store.endpoint) as raw:
        raw.send("PUT", f"/{BUCKET}")
    yield Scratch(store.endpoint, tmp_path)
    assert store.stop() == 0


@pytest.mark.parametrize("client", CLIENTS, ids=[type(each).__name__.lower() for each in CLIENTS])
def test_a_model_folder_goes_both_ways(client, scratch, tmp_path):
    """Up, down, and once more after a change: every byte, every name, nothing else."""
    if client.needs and shutil.which(client.needs) is None:
        pytest.skip(f"no {client.needs} on this machine (.ci/run installs it)")
    model, back, files = tmp_path / "model", tmp_path / "back", model_files()
    for name, data in files.items():
        place(model, name).write_bytes(data)

    client.up(scratch, model)
    client.down(scratch, back)
    assert contents(back) == files

    changed = {"config.json": b'{"a": 1}', "model.safetensors": os.urandom(7_000_000)}
    for name, data in changed.items():
        (model / name).write_bytes(data)
    client.up(scratch, model)
    client.down(scratch, back)
    assert contents(back) == files | changed


@pytest.mark.parametrize("client", CLIENTS, ids=[type(each).__name__.lower() for each in CLIENTS])
def test_an_etag_that_is_no_md5_is_taken_for_none(client, scratch, tmp_path):
    """What came with a CRC64NVME comes down whole, is checked by what it has, and goes over itself again."""
    if client.needs and shutil.which(client.needs) is None:
        pytest.skip(f"no {client.needs} on this machine (.ci/run installs it)")
    back, data = tmp_path / "back", os.urandom(OWN_ETAG_BYTES + 1)
    with Raw(scratch.store) as raw:
        sums = {"x-amz-checksum-crc64nvme": crc64_header(memoryview(data))}
        path = url_path(BUCKET, PREFIX + "model.safetensors")
        tag = raw.send("PUT", path, "", sums, data, payload="UNSIGNED-PAYLOAD").headers["etag"]
        assert tag.endswith('-1"')

    client.down(scratch, back)
    assert contents(back) == {"model.safetensors": data}
    client.up(scratch, back)
    with Raw(scratch.store) as raw:  # a tool may take longer than the store keeps a silent connection
        assert raw.send("GET", path).body == data


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
