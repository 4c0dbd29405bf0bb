"""The one file that loads the SDKs: sessions, clients, transfers, and the SDKs' errors as ours.

Importing it costs nothing: they load with the first client.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from storage.client.answers import Unreachable, error_of
from storage.client.endpoint import Endpoint

ATTEMPTS = 3  # of one call: who asks has a plan of its own for a store that is away


class _Sessions(threading.local):
    """The SDK's sessions of a thread, which reads S3's description once for all its clients: 60 ms of a client's 70.

    No session is safe in several threads.
    """

    @cached_property
    def asynchronous(self) -> Any:
        """For clients that live in this thread's event loops."""
        from aiobotocore.session import get_session  # noqa: PLC0415 - said on top

        return get_session()

    @cached_property
    def plain(self) -> Any:
        """For clients that block."""
        from botocore.session import get_session  # noqa: PLC0415 - said on top

        return get_session()


_sessions = _Sessions()


def read_ahead() -> None:
    """Load the SDK and read its description of S3, for clients of this thread and of what is forked from it."""
    load_async_sdk()
    _sessions.asynchronous.warm_up_loader_caches("s3")


def load_async_sdk() -> None:
    """Half a second of imports, which no event loop waits for."""
    import aiobotocore.config  # noqa: PLC0415 - said on top
    import aiobotocore.session  # noqa: F401, PLC0415 - as above


def new_async_client(endpoint: Endpoint, max_connections: int) -> Any:
    """A client for this thread's event loops, a context."""
    from aiobotocore.config import AioConfig  # noqa: PLC0415 - said on top

    config = AioConfig(**_settings(max_connections), warm_up_loader_caches=True)  # in a thread
    return _sessions.asynchronous.create_client("s3", config=config, **_address(endpoint))


def new_client(endpoint: Endpoint, max_connections: int, attempts: int = ATTEMPTS) -> Any:
    """A client that blocks."""
    from botocore.config import Config  # noqa: PLC0415 - said on top

    config = Config(**_settings(max_connections, attempts))
    return _sessions.plain.create_client("s3", config=config, **_address(endpoint))


def _settings(max_connections: int, attempts: int = ATTEMPTS) -> dict[str, Any]:
    """Path style, checksums only where S3 demands them (weaker stores refuse the rest), no SHA-256 of bodies."""
    return {
        "max_pool_connections": max_connections,
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
        "retries": {"mode": "standard", "total_max_attempts": attempts},
        "s3": {"addressing_style": "path", "payload_signing_enabled": False},
        "signature_version": "s3v4",
    }


def _address(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "endpoint_url": endpoint.url,
        "region_name": endpoint.region,
        "aws_access_key_id": endpoint.access_key,
        "aws_secret_access_key": endpoint.secret,
        "verify": _trust(endpoint),
    }


def _trust(endpoint: Endpoint) -> str | bool | None:
    """Its authority's file; None: whom the SDK trusts. Plain HTTP asks for none.

    Without this last, an AWS_CA_BUNDLE that names a file which is gone ends every request, of whatever scheme.
    """
    return endpoint.ca or (None if endpoint.url.startswith("https://") else False)


def new_transfers(client: Any, part_bytes: int, num_parts_at_once: int) -> Any:
    """boto3's transfers over `client`, a context: files in parts of `part_bytes`, so many of one at once."""
    from boto3.s3.transfer import TransferConfig, create_transfer_manager  # noqa: PLC0415 - said on top

    config = TransferConfig(
        multipart_threshold=part_bytes,
        multipart_chunksize=part_bytes,
        max_concurrency=num_parts_at_once,
        preferred_transfer_client="classic",
    )
    return create_transfer_manager(client, config)


def file_part(file: Path, start: int, size: int, sent: Callable[[int], None]) -> Any:
    """Some bytes of a file as a body, a context; `sent` hears of them as they go, and below 0 when they go again.

    The client is to be one of `new_transfers`, which makes that `sent` hears nothing while a request is signed.
    """
    from s3transfer.utils import ReadFileChunk  # noqa: PLC0415 - said on top

    def told(*, bytes_transferred: int) -> None:
        sent(bytes_transferred)

    return ReadFileChunk.from_filename(str(file), start, size, [told], enable_callbacks=False)


@contextmanager
def translated() -> Iterator[None]:
    """The SDK's errors as ours, once, at this seam."""
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - loaded by then

    try:
        yield
    except ClientError as error:
        fields = error.response.get("Error", {})
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        raise error_of(str(fields.get("Code", status)), str(fields.get("Message", "")), status) from error
    except BotoCoreError as error:
        raise Unreachable("Unreachable", _words_of(error)) from error


def _words_of(error: Exception) -> str:
    """The SDK's; of a connection that ended before TLS was up it says that a certificate was bad."""
    url = str(getattr(error, "kwargs", {}).get("endpoint_url", ""))
    if url and "UNEXPECTED_EOF_WHILE_READING" in str(error):
        return f"{urlsplit(url).netloc} takes connections and ends them at once"
    return str(error)


@contextmanager
def cut_short() -> Iterator[None]:
    """A body that breaks off is told by the HTTP client under the SDK."""
    from aiohttp import ClientError  # noqa: PLC0415 - loaded by then

    try:
        yield
    except ClientError as error:
        raise Unreachable("Unreachable", str(error)) from error
