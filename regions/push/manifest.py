"""`manifest.json`: what `nearfield push` writes last, so that a push is known to be whole at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from weights_cache.model.revision import MAX_PATH_CHARS, canonical_json
from weights_cache.model.strict import StrictError, fields, integer, one_of, optional, parse, several, text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from regions.push.folder import Listed

SCHEMA = "nearfield.manifest/1"
MAX_MANIFEST_BYTES = 4 << 20
MAX_MANIFEST_FILES = 4_096


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One file of the push: its etag is the store's answer to the upload, without quotes."""

    path: str
    size: int
    etag: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """One whole push. `regions` None: what `model.toml` says, else all."""

    files: tuple[ManifestFile, ...]
    regions: tuple[str, ...] | None = None
    push_id: str = ""

    def matches(self, listing: Iterable[Listed]) -> bool:
        """Whether every file it names lies in the prefix as it says; if not, it belongs to another push."""
        present = {each.path: (each.size, each.etag) for each in listing}
        return all(present.get(each.path) == (each.size, each.etag) for each in self.files)

    def mixes(self, weights: Iterable[Listed]) -> bool:
        """Whether some of these files are this push's and some are not: two pushes, neither of them whole."""
        named = {each.path: each.etag for each in self.files}
        same = {named.get(each.path) == each.etag for each in weights if each.path in named}
        return same == {True, False}

    def only(self, listing: Iterable[Listed]) -> tuple[Listed, ...]:
        """The listed files that it names."""
        named = {each.path for each in self.files}
        return tuple(each for each in listing if each.path in named)

    def is_same_model(self, other: Manifest) -> bool:
        """Whether another push brought the same files for the same regions."""
        return set(self.files) == set(other.files) and self.regions == other.regions

    def to_json(self) -> bytes:
        """The bytes to put at `<prefix>manifest.json`."""
        files = [{"path": each.path, "size": each.size, "etag": each.etag} for each in self.files]
        regions = None if self.regions is None else list(self.regions)
        return canonical_json({"schema": SCHEMA, "files": files, "regions": regions, "push_id": self.push_id})


def read_manifest(data: bytes) -> Manifest | None:
    """The manifest in `data`; None for anything else: a file of that name may be the user's own."""
    try:
        value = fields(parse(data, MAX_MANIFEST_BYTES), _MANIFEST, "manifest")
    except StrictError:
        return None
    return Manifest(value["files"], value["regions"], value["push_id"])


def claims_schema(data: bytes) -> bool:
    """Whether the bytes say that they are a manifest of ours, well-formed or not."""
    return SCHEMA.encode() in data[:MAX_MANIFEST_BYTES]


def _file(value: object, where: str) -> ManifestFile:
    found: dict[str, Any] = fields(value, _FILE, where)
    return ManifestFile(found["path"], found["size"], found["etag"].strip('"'))


_FILE = {"path": text(MAX_PATH_CHARS), "size": integer(), "etag": text(200)}
_MANIFEST = {
    "schema": one_of(SCHEMA),
    "files": several(_file, MAX_MANIFEST_FILES),
    "regions": optional(several(text(63), 256)),
    "push_id": text(100),
}
