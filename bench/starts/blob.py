"""A made model as one blob of a store: a file of large tensors, the revision of it, and its upload as a push does."""

import json
import os
import struct
from pathlib import Path

from bench.blast import Line
from storage.client.sdk import S3, Endpoint, url_path
from weights_cache.model.describe import Source, build_revision, draft
from weights_cache.model.header import read_header
from weights_cache.model.revision import ModelFacts, Revision, Spec
from weights_cache.reading.fetch import BLOB_BUCKET

MIB = 1 << 20
TENSOR_BYTES = 32 * MIB
PART_BYTES = 16 * MIB  # as `nearfield push` uploads


def made(path: Path, num_tensors: int, name: str) -> Revision:
    """A file of large tensors with a padded header, and the revision that describes it."""
    entries = {
        f"model.layers.{n}.weight": {
            "dtype": "F32",
            "shape": [TENSOR_BYTES // 4],
            "data_offsets": [n * TENSOR_BYTES, (n + 1) * TENSOR_BYTES],
        }
        for n in range(num_tensors)
    }
    header = json.dumps({"__metadata__": {"of": name}} | entries).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for _ in range(num_tensors):
            file.write(os.urandom(MIB) * (TENSOR_BYTES // MIB))
    return described(path, f"bench/{name}")


def described(path: Path, model: str) -> Revision:
    """The revision of one weight file; its facts are of no model."""
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        first += file.read(struct.unpack("<Q", first)[0])
    plan = draft(model, [Source(path.name, size, "e", read_header(first, size))])
    scan = plan.scan(path.name)
    with path.open("rb") as file:
        while chunk := file.read(8 * MIB):
            scan.update(chunk)
    facts = ModelFacts("generate", "Bench", "bench", "float32", 1, 1, 128, 8, 64, size)
    return build_revision(plan, {path.name: scan.finish()}, facts, Spec())


async def put(store: Endpoint, revision: Revision, path: Path) -> None:
    """As a push: equal parts."""
    with Line(store) as line:
        line.call("PUT", url_path(BLOB_BUCKET)).demand(200)
    async with S3(store) as s3:
        await s3.put_file(BLOB_BUCKET, revision.files[0].blake3, path, part_bytes=PART_BYTES)
