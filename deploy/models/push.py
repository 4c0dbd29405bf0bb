"""A folder becomes objects: checked with the platform's own rules, uploaded, made known by its manifest."""

import json
import secrets
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import Any

from deploy.terminal import patience
from deploy.trust.credentials import Credentials
from regions.map.names import base_of
from regions.push.check import check_folder
from regions.push.commit import Refused
from regions.push.folder import CONFIG, MANIFEST, SPEC, STATUS
from regions.push.manifest import MAX_MANIFEST_BYTES, Manifest, ManifestFile, read_manifest
from storage.client.sdk import (
    S3,
    Endpoint,
    Entry,
    NotFound,
    PreconditionFailed,
    Stall,
    StoreError,
    Unreachable,
    Uploaded,
    upload_folder,
)
from storage.client.stall import STALL_S
from weights_cache.model.revision import Spec

BUCKET = "models"
OnBytes = Callable[[int], None]
FULL = "InsufficientStorage"
STAYS = "what went up stays, and the same command sends the rest"
MAX_FILES = 4096
MAX_NAMED = 3  # folders that a refusal names
MAX_SMALL_BYTES = 4 * 1024 * 1024
"""A manifest or a status object is kilobytes; more is not one of ours."""


class PushRefused(Exception):
    """The folder is not a model that can be served; nothing was uploaded."""

    def __init__(self, code: str, message: str, next_step: str) -> None:
        super().__init__(message)
        self.code, self.next_step = code, next_step


@dataclass(frozen=True, slots=True)
class PushPlan:
    """What a push will upload, and what it leaves behind with the reason."""

    model: str
    folder: Path
    files: Mapping[str, int]
    left_out: Mapping[str, str]
    spec: Spec = field(default_factory=Spec)
    weights: frozenset[str] = frozenset()
    unchanged: Mapping[str, str] = field(default_factory=dict)
    """Files that the bucket has already, by their ETags there: they are not sent again."""
    shared: Mapping[str, str] = field(default_factory=dict)
    """Files of a preview that its model has in the bucket, by ETag: the store shares them, none is sent."""

    @property
    def num_bytes(self) -> int:
        """The whole model."""
        return sum(self.files.values())

    @property
    def upload_bytes(self) -> int:
        """What has to be sent."""
        return sum(self.files[path] for path in self.to_send)

    @property
    def to_send(self) -> tuple[str, ...]:
        """The files that have to go up."""
        return tuple(path for path in self.files if path not in self.unchanged and path not in self.shared)

    @property
    def weight_bytes(self) -> int:
        """Of the weight files."""
        return sum(self.files[path] for path in self.weights)


def plan(folder: Path, model: str, all_regions: Sequence[str]) -> PushPlan:
    """Look through `folder` and judge it by the rules that the platform will apply to the bucket.

    Raises:
        PushRefused: it cannot become a model; the cause and the next step are in the error.
    """
    files = _files(folder)

    def read(path: str, offset: int, length: int) -> bytes:
        with (folder / path).open("rb") as file:
            file.seek(offset)
            return file.read(length)

    verdict = check_folder(files, read, all_regions)
    if isinstance(verdict, Refused):
        raise _inside(folder, model, files) or PushRefused(verdict.code, verdict.message, verdict.next_step)
    left_out = {each.path: each.reason for each in verdict.left_out}  # for people: printable, and cut short
    chosen = {SPEC, *(listed.path for listed in verdict.files)}
    kept = {path: num for path, num in files.items() if path in chosen}
    weights = frozenset(listed.path for listed, _header in verdict.weights)
    return PushPlan(model, folder, kept, left_out, verdict.spec, weights)


def upload(
    push: PushPlan,
    credentials: Credentials,
    regions: tuple[str, ...] | None,
    on_bytes: OnBytes,
    notes: Path | None = None,
    on_kept: OnBytes = lambda _: None,
) -> Manifest:
    """Upload every file that changed, then the manifest that makes all of them one model; returns that.

    By the folder `notes` a push that was cut goes on within its files; `on_kept` hears of bytes that were there.

    Raises:
        StoreError: the store refused or could not be reached.
        OSError: a file cannot be read, or a note not written.
    """
    store = endpoint(credentials)
    paths = [(path, push.folder / path) for path in push.to_send]
    with patience.told(credentials.home_store, STALL_S) as silence:
        stall = Stall(STALL_S, silence.heard)
        prefix = push.model + "/"
        with _goes_on():
            uploaded = upload_folder(
                store, BUCKET, prefix, paths, _plain(on_bytes), stall, notes, _plain(on_kept)
            )
    there = tuple(Uploaded(path, push.files[path], etag) for path, etag in push.unchanged.items())
    finish = _finish(store, push, (*uploaded, *there), regions)
    return patience.ask(finish, credentials.home_store)


@contextmanager
def _goes_on() -> Iterator[None]:
    """Whoever's push was cut by the network hears that little is lost."""
    try:
        yield
    except Unreachable as error:
        if error.code == FULL:  # its next step says it
            raise
        raise Unreachable(error.code, f"{error.message}; {STAYS}", error.status) from error


def _plain(on_bytes: OnBytes) -> Callable[[str, int], None]:
    """Told of the bytes, whatever file they are of."""
    return lambda _path, num_bytes: on_bytes(num_bytes)


async def stored(credentials: Credentials, model: str) -> dict[str, Entry]:
    """What the bucket has of a model by now, by path. Raises StoreError."""
    async with S3(endpoint(credentials)) as s3:
        prefix = model + "/"
        return {entry.key.removeprefix(prefix): entry async for entry in s3.list(BUCKET, prefix)}


def endpoint(credentials: Credentials) -> Endpoint:
    """The bucket as a user reaches it: through the edge, or where the operator's own S3 is."""
    c = credentials
    return Endpoint(c.s3_url, c.s3_access_key, c.s3_secret_key, ca=c.s3_ca or None)


async def read_status(store: S3, model: str) -> dict[str, Any] | None:
    """What the platform wrote beside the model's files, if it has yet."""
    try:
        got = await store.get(BUCKET, f"{model}/{STATUS}", max_bytes=MAX_SMALL_BYTES)
    except NotFound:
        return None
    value: dict[str, Any] = json.loads(got.data)
    return value


async def lying_manifest(store: S3, model: str) -> tuple[Manifest | None, str]:
    """Whose push the files in the bucket are, None if no manifest lies there; and that object's ETag."""
    try:
        got = await store.get(BUCKET, f"{model}/{MANIFEST}", max_bytes=MAX_MANIFEST_BYTES)
    except NotFound:
        return None, ""
    return read_manifest(got.data), got.etag


def _files(folder: Path) -> dict[str, int]:
    if not folder.is_dir():
        raise PushRefused("no_folder", f"{folder} is not a folder", "Name the folder that holds config.json.")
    found = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in relative.parts):
            found[relative.as_posix()] = path.stat().st_size
    if len(found) > MAX_FILES:
        raise PushRefused(
            "too_many_files", f"{len(found)} files; at most {MAX_FILES}", "Push the model alone."
        )
    return {path: num for path, num in found.items() if path not in (MANIFEST, STATUS)}


def _inside(folder: Path, model: str, files: Mapping[str, int]) -> PushRefused | None:
    """Where the folder itself is no model but one in it may be: which, and the command that pushes that."""
    inner = [PurePosixPath(path).parent for path in files if PurePosixPath(path).name == CONFIG]
    if not inner or PurePosixPath() in inner:
        return None
    names = ", ".join(f"{each}/" for each in inner[:MAX_NAMED])
    cause = f"there is no {CONFIG} in {folder} itself, but in its {names}"
    return PushRefused(
        "missing_config", cause, f"nearfield push {shlex.quote(f'{folder / inner[0]}')} {model}"
    )


async def _finish(
    store: Endpoint, push: PushPlan, uploaded: tuple[Uploaded, ...], regions: tuple[str, ...] | None
) -> Manifest:
    """What the model's own folder has is shared inside the store; then the manifest makes it one push."""
    async with S3(store) as s3:
        shared = []
        for path, etag in push.shared.items():
            shared.append(await _share(s3, push, path, etag))
            patience.heard()
        return await _write_manifest(s3, push, (*uploaded, *shared), regions)


async def _share(s3: S3, push: PushPlan, path: str, etag: str) -> Uploaded:
    source, target = f"{base_of(push.model)}/{path}", f"{push.model}/{path}"
    told = await s3.copy(BUCKET, source, BUCKET, target, source_if_match=etag)
    return Uploaded(path, push.files[path], told)


async def _write_manifest(
    s3: S3, push: PushPlan, uploaded: tuple[Uploaded, ...], regions: tuple[str, ...] | None
) -> Manifest:
    files = tuple(ManifestFile(u.path, u.size, u.etag) for u in uploaded)
    own = Manifest(files, tuple(regions) if regions else None, secrets.token_hex(8))
    key = f"{push.model}/{MANIFEST}"
    stored = {entry.key: entry.etag async for entry in s3.list(BUCKET, push.model + "/")}
    await _drop_leftovers(s3, push, set(stored))
    try:
        await _put_over(s3, key, own.to_json(), stored.get(key))
    except PreconditionFailed:
        first, etag = await lying_manifest(s3, push.model)
        if first is None or not own.is_same_model(first):
            raise
        await _put_over(
            s3, key, own.to_json(), etag
        )  # the same files: the word on either push is that on both
    return own


async def _put_over(s3: S3, key: str, body: bytes, old: str | None) -> None:
    """Put the manifest over the one that was listed; of two pushes at once the later one hears of it.

    Raises:
        PreconditionFailed: another push was first.
    """
    try:
        await s3.put(BUCKET, key, body, if_none_match=old is None, if_match=old)
    except StoreError as error:
        if error.status != HTTPStatus.NOT_IMPLEMENTED or old is None:
            raise
        await s3.delete(BUCKET, key, if_match=old)  # a store without If-Match on PUT, such as Swift
        await s3.put(BUCKET, key, body, if_none_match=True)


async def _drop_leftovers(s3: S3, push: PushPlan, keys: set[str]) -> None:
    """Remove what an earlier push left, its status too: the folder is what the user wants served."""
    keep = {f"{push.model}/{name}" for name in (*push.files, MANIFEST)}
    for key in keys - keep:
        await s3.delete(BUCKET, key)
        patience.heard()
