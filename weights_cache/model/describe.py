"""From checked headers and one read of every file to a Revision. Pure: bytes are handed in, none are fetched.

plan = draft("acme/m", sources)             # sources: path, size, etag and, for weights, the checked header
scan = plan.scan("model.safetensors")
for chunk in stream: scan.update(chunk)     # the one verified read: file and extents are hashed as it passes
revision = build_revision(plan, {"model.safetensors": scan.finish(), ...}, facts, spec, left_out)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import xxhash
from blake3 import blake3

from weights_cache.model.header import Header
from weights_cache.model.plan import Piece, extents
from weights_cache.model.revision import (
    Extent,
    FileEntry,
    LeftOut,
    ModelFacts,
    Revision,
    RevisionError,
    Spec,
    TensorEntry,
)


@dataclass(frozen=True, slots=True)
class Source:
    """One file of a prefix, before its bytes were read; `header` for weight files."""

    path: str
    size: int
    etag: str
    header: Header | None = None


@dataclass(frozen=True, slots=True)
class FileDigests:
    """What one read of a file found; `spans` has (xxh3, blake3) for each span in the order of the scan's."""

    size: int
    blake3: str
    spans: tuple[tuple[str, str], ...]


class FileScan:
    """Hashes one file and its spans as the bytes pass. Spans are (offset, length), ascending and apart."""

    def __init__(self, spans: Sequence[tuple[int, int]] = ()) -> None:
        self._spans = tuple(spans)
        self._whole = blake3()
        self._position = 0
        self._done: list[tuple[str, str]] = []
        self._fast, self._strong = xxhash.xxh3_64(), blake3()

    def update(self, chunk: bytes | memoryview) -> None:
        """Take the next bytes of the file."""
        self._whole.update(chunk)
        view, start = memoryview(chunk), self._position
        self._position += len(view)
        while len(self._done) < len(self._spans):
            offset, length = self._spans[len(self._done)]
            part = view[max(0, offset - start) : max(0, offset + length - start)]
            self._fast.update(part)
            self._strong.update(part)
            if offset + length > self._position:
                return
            self._done.append((self._fast.hexdigest(), self._strong.hexdigest()))
            self._fast, self._strong = xxhash.xxh3_64(), blake3()

    def finish(self) -> FileDigests:
        """The digests of all that passed. Raises RevisionError if a span was not reached."""
        if len(self._done) != len(self._spans):
            raise RevisionError(f"the file ended at byte {self._position:,}, before its tensors do")
        return FileDigests(self._position, self._whole.hexdigest(), tuple(self._done))


@dataclass(frozen=True, slots=True)
class Draft:
    """A model whose bytes have not been read: all of a Revision but digests, facts and wishes."""

    model: str
    sources: tuple[Source, ...]
    tensors: tuple[TensorEntry, ...]
    pieces: tuple[Piece, ...]

    def scan(self, path: str) -> FileScan:
        """A scan for the file at `path`; feed it every byte of the file once."""
        pieces = self.pieces_of(self._number(path))
        return FileScan([(piece.offset, piece.length) for piece in pieces])

    def pieces_of(self, file: int) -> list[Piece]:
        """The pieces of one file by offset (they are listed by layer)."""
        return sorted((piece for piece in self.pieces if piece.file == file), key=lambda piece: piece.offset)

    def _number(self, path: str) -> int:
        return next(index for index, source in enumerate(self.sources) if source.path == path)


def draft(model: str, sources: Sequence[Source]) -> Draft:
    """The plan of a model from its files and their checked headers; files are kept in path order."""
    ordered = tuple(sorted(sources, key=lambda source: source.path))
    tensors = tuple(
        TensorEntry(tensor.name, tensor.dtype, tensor.shape, file, tensor.offset, tensor.length)
        for file, source in enumerate(ordered)
        if source.header
        for tensor in source.header.tensors
    )
    return Draft(model, ordered, tensors, extents(tensors))


def build_revision(
    plan: Draft,
    digests: Mapping[str, FileDigests],
    facts: ModelFacts,
    spec: Spec,
    left_out: Sequence[LeftOut] = (),
) -> Revision:
    """The Revision of `plan`, given the digests of each of its files. Raises RevisionError."""
    known: dict[Piece, tuple[str, str]] = {}
    files = []
    for number, source in enumerate(plan.sources):
        found = digests[source.path]
        if found.size != source.size:
            raise RevisionError(f"{source.path} had {source.size:,} bytes and was read as {found.size:,}")
        files.append(FileEntry(source.path, source.size, found.blake3, source.etag))
        known.update(zip(plan.pieces_of(number), found.spans, strict=True))
    pieces = tuple(
        Extent(piece.file, piece.offset, piece.length, *known[piece], piece.layer, piece.tensors)
        for piece in plan.pieces
    )
    return Revision(plan.model, tuple(files), plan.tensors, pieces, facts, spec, tuple(left_out))
