"""Files of a folder into a bucket, by boto3's transfers: what `nearfield push` sends with."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from storage.client.answers import Uploaded
from storage.client.arguments import unquoted
from storage.client.aws import new_client, new_transfers, translated
from storage.client.endpoint import Endpoint
from storage.client.pieces import NUM_PARTS_AT_ONCE, PART_BYTES, Progress
from storage.client.stall import Stall

NUM_FILES_AT_ONCE = 4
UPLOAD_ATTEMPTS = 8  # the SDK's pauses add up to about half a minute: a store that is restarted costs no push


def upload_folder(
    endpoint: Endpoint,
    bucket: str,
    prefix: str,
    files: Sequence[tuple[str, Path]],
    on_progress: Callable[[str, int], None] | None = None,
    stall: Stall | None = None,
) -> tuple[Uploaded, ...]:
    """Upload (path under `prefix`, local file) pairs with boto3's transfers, CRC32 checked by the store.

    `on_progress(path, bytes just sent)` is called from several threads. Raises: StoreError, OSError; Unreachable too
    where nothing has moved for as long as `stall` allows.
    """
    stall = stall or Stall()
    client = new_client(endpoint, NUM_FILES_AT_ONCE * NUM_PARTS_AT_ONCE, UPLOAD_ATTEMPTS)
    stall.watch(client)

    def told(path: str, num_bytes: int) -> None:
        stall.sent(num_bytes)
        if on_progress is not None:
            on_progress(path, num_bytes)

    try:
        with translated(), new_transfers(client, PART_BYTES, NUM_PARTS_AT_ONCE) as transfers:
            running = [
                transfers.upload(
                    str(file),
                    bucket,
                    prefix + path,
                    {"ChecksumAlgorithm": "CRC32"},
                    [Progress(path, told)],
                )
                for path, file in files
            ]
            for upload in running:
                upload.result()
            return tuple(_uploaded(client, bucket, prefix, path) for path, _ in files)
    finally:
        client.close()


def _uploaded(client: Any, bucket: str, prefix: str, path: str) -> Uploaded:
    answer = client.head_object(Bucket=bucket, Key=prefix + path)
    return Uploaded(path, int(answer["ContentLength"]), unquoted(answer["ETag"]))
