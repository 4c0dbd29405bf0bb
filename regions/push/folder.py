"""Which files of a pushed folder belong to the model, by name alone, and what becomes of the others.

Nothing that could run is ever part of a revision: what is not on the short list of names below is left out,
and its owner is told the reason.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from weights_cache.model.revision import LeftOut

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MANIFEST = "manifest.json"  # written last by `nearfield push`
STATUS = "nearfield-status.json"  # ours, for the pusher to read; never an input
SPEC = "model.toml"
CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
ADAPTER = "adapter_config.json"

MIB = 1 << 20
MAX_SMALL_BYTES = {  # read whole by the node; the largest in public: tokenizer.json 33 MB (Gemma)
    CONFIG: 1 * MIB,
    TOKENIZER: 64 * MIB,
    INDEX: 16 * MIB,
    SPEC: 1 * MIB,
    MANIFEST: 4 * MIB,
}
MAX_OTHER_SMALL_BYTES = 16 * MIB
MAX_LISTED_FILES = 4_096  # as many as a manifest may have; hub folders have tens, 405B checkpoints ~200
MAX_LEFT_OUT = 200  # named one by one; the rest are counted

KEPT = frozenset(
    {
        CONFIG,
        TOKENIZER,
        TOKENIZER_CONFIG,
        INDEX,
        "generation_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
        "chat_template.json",
        "additional_chat_templates/tool_use.jinja",
        "vocab.json",
        "vocab.txt",
        "merges.txt",
        "modules.json",
        "sentence_bert_config.json",
        "config_sentence_transformers.json",
    }
)
_MODULE_CONFIG = re.compile(r"[0-9]{1,2}_[A-Za-z]{1,32}/config\.json")  # sentence-transformers' modules
_TOP_WEIGHTS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}\.safetensors")

PICKLED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz")
OTHER_WEIGHTS = (
    ".gguf",
    ".ggml",
    ".h5",
    ".msgpack",
    ".onnx",
    ".onnx_data",
    ".tflite",
    ".pb",
    ".ot",
    ".mlmodel",
    ".engine",
)
CODE = (".py", ".pyc", ".pyd", ".so", ".dll", ".dylib", ".exe", ".sh", ".js", ".ipynb", ".cu", ".cpp")
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".whl", ".nemo")
REASONS = (
    (PICKLED, "weights in a form that can run code; only safetensors are loaded"),
    (OTHER_WEIGHTS, "weights in another engine's form; only safetensors are loaded"),
    (CODE, "code; nothing in a push is ever run"),
    (ARCHIVES, "an archive; nothing is ever unpacked"),
    ((".safetensors",), "weights that no index names at the top of the folder"),
)
NOT_NEEDED = "not needed to serve the model"


@dataclass(frozen=True, slots=True)
class Listed:
    """One object of the prefix: `path` relative to it, `size` in bytes, `modified` in seconds since 1970."""

    path: str
    size: int
    etag: str
    modified: float = 0.0


@dataclass(frozen=True, slots=True)
class Folder:
    """A prefix sorted by what its files are."""

    small: dict[str, Listed]  # kept files that are read whole, by path
    weights: dict[str, Listed]  # top-level *.safetensors, by path
    others: tuple[Listed, ...]  # everything else but our own objects
    spec: Listed | None = None
    manifest: Listed | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing of a model has been pushed (yet)."""
        return not (self.small or self.weights or self.others)

    @property
    def foreign_weights(self) -> tuple[str, ...]:
        """Paths of weights that we do not load."""
        return tuple(each.path for each in self.others if each.path.lower().endswith(PICKLED + OTHER_WEIGHTS))


def sorted_folder(listing: Iterable[Listed]) -> Folder:
    """The listing by kinds of files."""
    small: dict[str, Listed] = {}
    weights: dict[str, Listed] = {}
    ours: dict[str, Listed] = {}
    others: list[Listed] = []
    for each in listing:
        if each.path in {SPEC, MANIFEST}:
            ours[each.path] = each
        elif each.path in KEPT or _MODULE_CONFIG.fullmatch(each.path):
            small[each.path] = each
        elif _TOP_WEIGHTS.fullmatch(each.path):
            weights[each.path] = each
        elif each.path != STATUS and not each.path.endswith("/"):  # consoles write "folders" as empty objects
            others.append(each)
    return Folder(small, weights, tuple(others), ours.get(SPEC), ours.get(MANIFEST))


def max_bytes(path: str) -> int:
    """The most bytes that a small file may have."""
    return MAX_SMALL_BYTES.get(path, MAX_OTHER_SMALL_BYTES)


def reason_for(path: str) -> str:
    """Why a file of that name is no part of a revision."""
    lower = path.lower()
    return next((reason for endings, reason in REASONS if lower.endswith(endings)), NOT_NEEDED)


def left_out(files: Sequence[Listed], more: Sequence[LeftOut] = ()) -> tuple[LeftOut, ...]:
    """What the owner is told: first what matters, by path; a line with the count of what is not named."""
    named = [*more, *(LeftOut(printable(each.path), reason_for(each.path)) for each in files)]
    told = list({each.path: each for each in reversed(named)}.values())  # the first reason for each path
    told.sort(key=lambda each: (each.reason == NOT_NEEDED, each.path))
    if len(told) <= MAX_LEFT_OUT:
        return tuple(told)
    rest = LeftOut("...", f"and {len(told) - MAX_LEFT_OUT:,} more files")
    return (*told[:MAX_LEFT_OUT], rest)


def printable(path: str) -> str:
    """A path as it may be shown: bounded, no control characters."""
    return "".join(mark if mark.isprintable() else "?" for mark in path)[:500]
