"""Files of a folder into a bucket, as `nearfield push` sends them: small ones by boto3's transfers, others in parts."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from storage.client.answers import Uploaded
from storage.client.arguments import unquoted
from storage.client.aws import new_client, new_transfers, translated
from storage.client.endpoint import Endpoint
from storage.client.notes import Notes
from storage.client.parted import ALGORITHM, Large, PartedUploads
from storage.client.pieces import NUM_PARTS_AT_ONCE, PART_BYTES, Progress
from storage.client.stall import Stall

NUM_FILES_AT_ONCE = 4
NUM_REQUESTS_AT_ONCE = NUM_FILES_AT_ONCE * NUM_PARTS_AT_ONCE
UPLOAD_ATTEMPTS = 8  # the SDK's pauses add up to about half a minute: a store that is restarted costs no push
EXTRA = {"ChecksumAlgorithm": ALGORITHM}

OnBytes = Callable[[str, int], None]


def upload_folder(
    endpoint: Endpoint,
    bucket: str,
    prefix: str,
    files: Sequence[tuple[str, Path]],
    on_progress: OnBytes | None = None,
    stall: Stall | None = None,
    notes: Path | None = None,
    on_kept: OnBytes | None = None,
) -> tuple[Uploaded, ...]:
    """Upload (path under `prefix`, local file) pairs, CRC32 checked by the store.

    What is remembered in the folder `notes` of files that were cut goes on with what went up, each part of it compared
    with the file as it is now. `on_progress(path, bytes just sent)` and `on_kept(path, bytes that were there)` are
    called from several threads. Raises: StoreError, OSError; Unreachable too where nothing has moved for as long as
    `stall` allows.
    """
    stall = stall or Stall()
    client = new_client(endpoint, 2 * NUM_REQUESTS_AT_ONCE, UPLOAD_ATTEMPTS)
    stall.watch(client)

    def told(path: str, num_bytes: int) -> None:
        stall.sent(num_bytes)
        if on_progress is not None:
            on_progress(path, num_bytes)

    def kept(path: str, num_bytes: int) -> None:
        stall.sent(num_bytes)
        if on_kept is not None:
            on_kept(path, num_bytes)

    try:
        with translated():
            _send(client, bucket, prefix, files, told, kept, Notes(notes))
            return tuple(_uploaded(client, bucket, prefix, path) for path, _ in files)
    finally:
        client.close()


def _send(
    client: Any,
    bucket: str,
    prefix: str,
    files: Sequence[tuple[str, Path]],
    told: OnBytes,
    kept: OnBytes,
    notes: Notes,
) -> None:
    """All of them, a few at once."""
    sizes = [(path, file, file.stat().st_size) for path, file in files]
    with (
        new_transfers(client, PART_BYTES, NUM_PARTS_AT_ONCE) as transfers,
        PartedUploads(client, notes, NUM_FILES_AT_ONCE, NUM_REQUESTS_AT_ONCE) as parted,
    ):
        running = []
        for path, file, size in sizes:
            place = {"Bucket": bucket, "Key": prefix + path}
            if size < PART_BYTES:
                running.append(transfers.upload(str(file), *place.values(), EXTRA, [Progress(path, told)]))
            else:
                running.append(parted.begin(Large(file, place, partial(told, path), partial(kept, path))))
        for upload in running:
            upload.result()


def _uploaded(client: Any, bucket: str, prefix: str, path: str) -> Uploaded:
    answer = client.head_object(Bucket=bucket, Key=prefix + path)
    return Uploaded(path, int(answer["ContentLength"]), unquoted(answer["ETag"]))
