"""One read of the files makes the revision, whatever pieces the bytes come in."""

import itertools

import pytest
import xxhash
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from weights_cache.model.describe import FileScan, build_revision, draft
from weights_cache.model.plan import extents
from weights_cache.model.revision import Revision, RevisionError, Spec

from .samples import FACTS, described, source_of, tiny_files


def test_digests_are_of_the_bytes():
    """Every file and every extent has the digest of exactly its bytes."""
    files = tiny_files()
    revision = described(files)

    for entry in revision.files:
        assert entry.blake3 == blake3(files[entry.path]).hexdigest()
    for extent in revision.extents:
        data = files[revision.files[extent.file].path][extent.offset : extent.offset + extent.length]
        assert extent.xxh3 == xxhash.xxh3_64_hexdigest(data)
        assert extent.blake3 == blake3(data).hexdigest()


def test_same_prefix_same_id():
    """Two regions that read the same files make the same id, in whatever order they list them."""
    files = tiny_files()
    again = dict(reversed(files.items()))

    assert described(files).id == described(again).id
    assert Revision.from_json(described(files).to_json()) == described(files)


def test_extents_follow_the_plan():
    """The revision's extents are the plan's pieces, in execution order."""
    revision = described(tiny_files())
    pieces = extents(revision.tensors)

    assert [(e.file, e.offset, e.length) for e in revision.extents] == [
        (p.file, p.offset, p.length) for p in pieces
    ]
    assert revision.tensors[revision.extents[0].tensors[0]].name == "model.embed_tokens.weight"
    assert revision.tensors[revision.extents[-1].tensors[-1]].name == "lm_head.weight"


@given(st.binary(max_size=300), st.data())
def test_scan_by_any_chunks(data, draw):
    """Chunk borders never change a digest."""
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(data)), max_size=6)))
    borders = sorted(draw.draw(st.lists(st.integers(0, len(data)), max_size=8)))
    spans = [(a, b - a) for a, b in itertools.pairwise(borders) if b > a]
    scan = FileScan(spans)
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        scan.update(memoryview(data)[start:end])
    found = scan.finish()

    assert found.size == len(data)
    assert found.blake3 == blake3(data).hexdigest()
    assert [fast for fast, _ in found.spans] == [
        xxhash.xxh3_64_hexdigest(data[at : at + length]) for at, length in spans
    ]


def test_short_file_is_refused():
    """A stream that ends before its tensors, or is not as long as listed, makes no revision."""
    files = tiny_files()
    path = "model-00001-of-00002.safetensors"
    plan = draft("acme/tiny", [source_of(name, data) for name, data in files.items()])
    scan = plan.scan(path)
    scan.update(files[path][:-1])
    with pytest.raises(RevisionError, match="ended"):
        scan.finish()

    digests = {name: _scanned(plan, name, data) for name, data in files.items()}
    digests["config.json"] = _scanned(plan, "config.json", b"{}")
    with pytest.raises(RevisionError, match="read as 2"):
        build_revision(plan, digests, FACTS, Spec())


def _scanned(plan, path, data):
    scan = plan.scan(path)
    scan.update(data)
    return scan.finish()
