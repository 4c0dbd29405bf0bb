"""Is this prefix a complete, safe model? Pure: a listing and some bytes in, one verdict out.

Rule 1: with a manifest whose every file lies there as it says (size and etag), the push is whole: judged now.
Rule 2: when some weights are as the manifest says and some are not, two pushes are mixed: never served.
Rule 3: else an index and the shards it names, or one model.safetensors, once the prefix has been quiet.
Rule 4: what may still arrive (a missing file, an index that disagrees) is waited for, then refused.
Rule 5: a refusal is about these bytes only: any change of the prefix is judged anew.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from regions.push.folder import (
    CONFIG,
    INDEX,
    MANIFEST,
    MAX_LISTED_FILES,
    SPEC,
    STATUS,
    TOKENIZER,
    TOKENIZER_CONFIG,
    Folder,
    Listed,
    left_out,
    max_bytes,
    printable,
    sorted_folder,
)
from regions.push.manifest import claims_schema, read_manifest
from regions.push.problem import ProblemError
from regions.push.spec import SpecError, check_regions, read_spec
from regions.push.weights import Weights, named_weights
from weights_cache.model.revision import LeftOut, Spec
from weights_cache.model.strict import StrictError, parse

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from regions.push.manifest import Manifest
    from weights_cache.model.header import Header, HeaderError

AUTO_MAP_REASON = "names code to run; it is never followed, transformers' own classes are used"
NOT_IN_MANIFEST_REASON = "not part of this push: manifest.json does not name it"
SAVE_TOKENIZER = (
    "AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR) writes tokenizer.json; push DIR again"
)
MIXED_MESSAGE = "some weights belong to the push that manifest.json describes and some to another one"
MIXED_NEXT = "push the whole folder once more, or delete manifest.json if the mix is meant"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long an unchanged prefix is waited for, in seconds.

    `quiet_s`: between two files of one sync; its parallel uploads leave gaps well under a second.
    `grace_s`: for a file that is missing. A large shard takes longer, but its upload is seen (`unfinished`).
    `stale_s`: when the manifest here belongs to an older push, for the next one.
    """

    quiet_s: float = 2.0
    grace_s: float = 10.0
    stale_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Known:
    """The names that a push may use. `engines` is None where whoever judges does not know them."""

    regions: Sequence[str]
    engines: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class Complete:
    """A whole model: what to commit. `weights` are the weight files with their headers, in name order.

    `regions`: a flag of the push, no part of the model; None when it had none.
    """

    files: tuple[Listed, ...]
    weights: tuple[tuple[Listed, Header], ...]
    spec: Spec
    left_out: tuple[LeftOut, ...]
    regions: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """Not whole, or not for long enough. Judge again after `retry_s`; None: only when something changes."""

    reason: str
    retry_s: float | None


@dataclass(frozen=True, slots=True)
class Refused:
    """These bytes will not be served, and what their owner can do."""

    code: str
    message: str
    next_step: str
    left_out: tuple[LeftOut, ...] = ()


Verdict = Complete | Waiting | Refused


@dataclass(frozen=True, slots=True)
class Bytes:
    """What was read, by path: `small` files whole; each header, or why it is a bad one."""

    small: Mapping[str, bytes] = field(default_factory=dict)
    headers: Mapping[str, Header | HeaderError] = field(default_factory=dict)


def wanted(listing: Iterable[Listed]) -> tuple[tuple[Listed, ...], tuple[Listed, ...]]:
    """What `judge` needs to see of a listing: small files to read whole, files to read the header of."""
    folder = sorted_folder(listing)
    named = (folder.small.get(path) for path in (CONFIG, TOKENIZER_CONFIG, INDEX))
    present = [each for each in (*named, folder.spec, folder.manifest) if each is not None]
    return tuple(each for each in present if each.size <= max_bytes(each.path)), tuple(
        folder.weights.values()
    )


def judge(
    listing: Sequence[Listed],
    found: Bytes,
    *,
    quiet_for_s: float,
    patience: Patience,
    all_regions: Sequence[str],
    engines: Sequence[str] | None = None,
    unfinished: Sequence[str] = (),
) -> Verdict:
    """The verdict on a prefix.

    Args:
        listing: every object of the prefix, at most MAX_LISTED_FILES + 1 of them.
        found: what `wanted` asked for, read with the listed etags.
        quiet_for_s: how long the listing has been seen unchanged.
        patience: how long to wait for what.
        all_regions: the names of the platform's regions.
        engines: the external engines that a model may name; None: whoever asks does not know them.
        unfinished: paths whose upload has begun and not ended.
    """
    if sorted_folder(listing).is_empty:
        return Waiting("nothing has been pushed", None)
    manifest = read_manifest(found.small.get(MANIFEST, b""))
    whole = manifest if manifest is not None and manifest.matches(listing) else None
    if whole is None and unfinished:
        return Waiting(f"the upload of {unfinished[0]} has begun and not ended", patience.quiet_s)
    outcome, may_pass = _examined(listing, found, whole, Known(all_regions, engines))
    if whole is None and manifest is not None and manifest.mixes(sorted_folder(listing).weights.values()):
        outcome, may_pass = Refused("mixed_push", MIXED_MESSAGE, MIXED_NEXT), True
    is_stale = whole is None and claims_schema(found.small.get(MANIFEST, b""))
    needed_s = 0.0 if whole else _needed_s(patience, may_pass=may_pass, is_stale=is_stale)
    if needed_s > quiet_for_s:
        return Waiting(_reason(outcome), needed_s - quiet_for_s)
    return outcome


def _needed_s(patience: Patience, *, may_pass: bool, is_stale: bool) -> float:
    quiet_s = patience.stale_s if is_stale else patience.quiet_s
    return max(quiet_s, patience.grace_s) if may_pass else quiet_s


def _reason(outcome: Complete | Refused) -> str:
    return outcome.message if isinstance(outcome, Refused) else "more files may be on their way"


def _examined(
    listing: Sequence[Listed], found: Bytes, manifest: Manifest | None, known: Known
) -> tuple[Complete | Refused, bool]:
    """What the bytes are, whatever the time; and whether a file still to come would mend a refusal."""
    chosen = manifest.only(listing) if manifest else tuple(listing)
    folder = sorted_folder(chosen)
    told = _beside(listing, chosen) if manifest else []
    try:
        return _complete(folder, found, manifest, known, told), False
    except ProblemError as problem:
        refused = Refused(problem.code, problem.message, problem.next_step, left_out(folder.others, told))
        return refused, problem.may_pass


def _beside(listing: Sequence[Listed], chosen: Sequence[Listed]) -> list[LeftOut]:
    """What a manifest does not name, of an older push or of another tool."""
    named = {each.path for each in chosen} | {MANIFEST, STATUS}
    return [
        LeftOut(printable(each.path), NOT_IN_MANIFEST_REASON) for each in listing if each.path not in named
    ]


def _complete(
    folder: Folder, found: Bytes, manifest: Manifest | None, known: Known, told: list[LeftOut]
) -> Complete:
    """The whole model in the folder. Raises ProblemError with the first reason why it is none."""
    _check_sizes(folder)
    spec = _spec(folder, found, manifest, known)
    told += _check_config(folder, found)
    if TOKENIZER not in folder.small:
        raise ProblemError("missing_tokenizer", "there is no tokenizer.json", SAVE_TOKENIZER, may_pass=True)
    weights: Weights = named_weights(folder, found.small.get(INDEX), found.headers)
    unnamed = [each for each in folder.weights.values() if each not in weights.files]
    return Complete(
        files=tuple(sorted((*folder.small.values(), *weights.files), key=lambda each: each.path)),
        weights=tuple(zip(weights.files, weights.headers, strict=True)),
        spec=spec,
        left_out=left_out((*folder.others, *unnamed), told),
        regions=manifest.regions if manifest else None,
    )


def _check_sizes(folder: Folder) -> None:
    num_files = len(folder.small) + len(folder.weights) + len(folder.others)
    if num_files > MAX_LISTED_FILES:
        message = f"the prefix holds more than {MAX_LISTED_FILES:,} files"
        raise ProblemError(
            "too_many_files", message, "push one model to one prefix, without its training files"
        )
    for each in (*folder.small.values(), *filter(None, (folder.spec,))):
        if each.size > max_bytes(each.path):
            message = f"{each.path} has {each.size:,} bytes, at most {max_bytes(each.path):,} are read"
            raise ProblemError("file_too_large", message, "push the model's own file of that name")


def _spec(folder: Folder, found: Bytes, manifest: Manifest | None, known: Known) -> Spec:
    """The wishes of model.toml; the regions that the push itself names are checked too."""
    try:
        if manifest is not None and manifest.regions is not None:
            check_regions(manifest.regions, known.regions, "the push")
        return read_spec(found.small[SPEC], known.regions, known.engines) if folder.spec else Spec()
    except SpecError as error:
        raise ProblemError("bad_model_toml", error.message, error.next_step) from error


def _check_config(folder: Folder, found: Bytes) -> list[LeftOut]:
    """Refuses a missing or unreadable config.json; returns what the configs name that is never followed."""
    if CONFIG not in folder.small:
        next_step = (
            "push the folder that model.save_pretrained(DIR) wrote: config.json says what the weights are"
        )
        raise ProblemError("missing_config", "there is no config.json", next_step, may_pass=True)
    _json_object(CONFIG, found.small[CONFIG])
    paths = [path for path in (CONFIG, TOKENIZER_CONFIG) if path in folder.small]
    mapped = [path for path in paths if "auto_map" in _json_object(path, found.small[path])]
    return [LeftOut(f"{path}: auto_map", AUTO_MAP_REASON) for path in mapped]


def _json_object(path: str, data: bytes) -> dict[str, Any]:
    try:
        value = parse(data, max_bytes(path))
    except StrictError as error:
        raise ProblemError("bad_config", f"{path}: {error}", "save the model again and push it") from error
    if not isinstance(value, dict):
        raise ProblemError("bad_config", f"{path} is not a JSON object", "save the model again and push it")
    return value
